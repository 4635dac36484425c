//! `keen-edge`: checks an Envoy configuration, explains what becomes of a call, and prints the JSON Schema.
//!
//! Exit codes: 0, all is well; 1, mistakes were found, or a call gets an error; 2, wrong usage, or a file that cannot be used.

mod check;
mod envoy;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use check::{Report, Severity};
use clap::{Parser, Subcommand};
use envoy::{ConfigFile, FileError};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks an Envoy configuration with keen-edge, and explains what becomes of a call.
#[derive(Debug, Parser)]
#[command(name = "keen-edge", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  check: mistakes were found; explain: the call gets an error, or the configuration has mistakes
  2  wrong usage, or a file that cannot be used

Colour: on a terminal, unless NO_COLOR is set.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Report every mistake of a configuration, as the filter would, and what the filter cannot see
    #[command(after_help = EXIT_CODES)]
    Check {
        /// Envoy's bootstrap, LDS, CDS or ECDS files, in YAML or JSON
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Exit with 1 for warnings, too
        #[arg(long)]
        strict: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the filter's configuration
    Schema,
}

/// Exit code of mistakes that were found.
const MISTAKES: u8 = 1;
/// Exit code of wrong usage, as clap has it, and of unusable files.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let code = match Arguments::parse().command {
        Command::Check { files, strict, json } => run_check(&files, strict, json),
        Command::Schema => {
            print(&format!("{:#}\n", keen_edge::config::reference::json_schema()));
            Ok(0)
        }
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        let style = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        eprintln!("{style}error{style:#}: {error}");
        UNUSABLE
    }))
}

fn run_check(paths: &[PathBuf], strict: bool, json: bool) -> Result<u8, FileError> {
    let files = paths.iter().map(|path| ConfigFile::read(path)).collect::<Result<Vec<_>, _>>()?;
    let reports = check::check(&files)?;
    if let (true, Some(first)) = (reports.is_empty(), paths.first()) {
        return Err(check::no_filter(first));
    }
    if json {
        let reports: Vec<_> = reports.iter().map(Report::to_json).collect();
        print(&format!("{:#}\n", serde_json::Value::from(reports)));
    } else {
        print(&reports.iter().map(render_report).collect::<String>());
    }
    let count = |severity| {
        let findings = reports.iter().flat_map(|report| &report.findings);
        findings.filter(|finding| finding.severity == severity).count()
    };
    let failed = count(Severity::Error) > 0 || (strict && count(Severity::Warning) > 0);
    Ok(if failed { MISTAKES } else { 0 })
}

/// A report for people.
fn render_report(report: &Report) -> String {
    let mut text = String::new();
    let bold = Style::new().bold();
    let dim = Style::new().dimmed();
    text.push_str(&format!("{bold}{}{bold:#}: filter {}\n", report.file, report.filter));
    for finding in &report.findings {
        let color = match finding.severity {
            Severity::Error => AnsiColor::Red,
            Severity::Warning => AnsiColor::Yellow,
        };
        let style = Style::new().bold().fg_color(Some(color.into()));
        let setting = finding.setting.as_ref().map(|it| format!("{it}: ")).unwrap_or_default();
        text.push_str(&format!(
            "  {style}{}{style:#}: {setting}{}\n",
            finding.severity.label(),
            finding.message
        ));
        if let Some(help) = &finding.help {
            text.push_str(&format!("    {dim}→{dim:#} {help}\n"));
        }
    }
    let count = |severity| report.findings.iter().filter(|it| it.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    text.push_str(&match report.sources {
        Some(sources) if errors == 0 && warnings == 0 => {
            format!("  {}, no mistakes\n", plural(sources, "source"))
        }
        _ => format!("  {}, {}\n", plural(errors, "error"), plural(warnings, "warning")),
    });
    text
}

/// Prints to standard output, without colour where that is no terminal. A reader that has gone is no error.
fn print(text: &str) {
    let _ = anstream::stdout().write_all(text.as_bytes());
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
