//! `keen-edge` checks an Envoy configuration, explains what the filter does with a call, and prints
//! the JSON Schema.
//!
//! Exit codes: 0, no mistakes; 1, mistakes were found, or a call gets an error; 2, wrong usage, or
//! a file that cannot be used.

mod check;
mod envoy;
mod explain;
mod input;
mod pretty;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use check::{Report, Severity};
use clap::{Parser, Subcommand};
use envoy::{ConfigFile, FileError};
use explain::{Explainer, Explanation};
use keen_edge::config::Config;
use keen_edge::timestamp;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

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
    /// Show what becomes of a call: the events that Keen would get, or why there are none
    #[command(after_help = EXIT_CODES)]
    Explain {
        /// The Envoy configuration with the filter
        #[arg(long, default_value = "envoy.yaml")]
        config: PathBuf,
        /// A message, a batch, or recorded HTTP requests; `-` is the standard input
        call: PathBuf,
        /// The write key of a call that has none; not needed with one source
        #[arg(long)]
        write_key: Option<String>,
        /// The client's address, as Envoy would vouch for it
        #[arg(long, default_value = "127.0.0.1")]
        address: IpAddr,
        /// When the filter gets the call, such as 2026-11-26T10:00:00.000Z; now, if absent
        #[arg(long, value_parser = parse_time)]
        received_at: Option<i64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the filter's configuration
    Schema,
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Exit code if mistakes were found.
const MISTAKES: u8 = 1;
/// Exit code for wrong usage (clap's own) and for unusable files.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let code = match Arguments::parse().command {
        Command::Check { files, strict, json } => run_check(&files, strict, json),
        Command::Explain { config, call, write_key, address, received_at, json } => {
            let options = ExplainOptions { write_key, address, received_at, json };
            run_explain(&config, &call, options)
        }
        Command::Schema => {
            print(&format!("{:#}\n", keen_edge::config::reference::json_schema()));
            Ok(0)
        }
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        eprintln!("{ERROR}error{ERROR:#}: {error}");
        UNUSABLE
    }))
}

struct ExplainOptions {
    write_key: Option<String>,
    address: IpAddr,
    received_at: Option<i64>,
    json: bool,
}

fn run_explain(config: &Path, call: &Path, options: ExplainOptions) -> Result<u8, FileError> {
    let files = ConfigFile::read_all(&[config.to_owned()])?;
    let filter = files.iter().find_map(|file| file.filters().into_iter().next());
    let configuration = filter.ok_or_else(|| check::no_filter(config))?.configuration();
    let parsed = match Config::parse(&configuration) {
        Ok(parsed) => parsed,
        Err(errors) => {
            let path = config.display();
            eprintln!(
                "{ERROR}error{ERROR:#}: {path}: the filter refuses this configuration:\n{errors}"
            );
            return Ok(MISTAKES);
        }
    };
    let calls = input::parse(&read_call(call)?).map_err(|error| FileError::new(call, error))?;
    let write_key = options.write_key.or_else(|| only_write_key(&configuration));
    let received_ms = options.received_at.unwrap_or_else(now_ms);
    let mut explainer = Explainer::new(parsed, write_key, options.address.to_string(), received_ms);
    let explanations: Vec<_> = calls.iter().map(|call| explainer.explain(call)).collect();
    if options.json {
        let json = serde_json::to_string_pretty(&explanations);
        print(&format!("{}\n", json.map_err(|error| FileError::new(call, error.to_string()))?));
    } else {
        print(&explanations.iter().map(Explanation::render).collect::<String>());
    }
    let failed = explanations.iter().any(|it| it.status.is_some_and(|status| status >= 400));
    Ok(if failed { MISTAKES } else { 0 })
}

fn read_call(path: &Path) -> Result<String, FileError> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|error| FileError::new(path, error.to_string()))
}

/// Returns the write key of a configuration with one source.
fn only_write_key(configuration: &[u8]) -> Option<String> {
    let configuration: serde_json::Value = serde_json::from_slice(configuration).ok()?;
    let mut keys = configuration.get("sources")?.as_object()?.keys();
    keys.next().filter(|_| keys.next().is_none()).cloned()
}

fn parse_time(text: &str) -> Result<i64, String> {
    timestamp::parse_text(text)
        .ok_or_else(|| "not a time such as 2026-11-26T10:00:00.000Z".to_owned())
}

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

fn run_check(paths: &[PathBuf], strict: bool, json: bool) -> Result<u8, FileError> {
    let files = ConfigFile::read_all(paths)?;
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

/// Formats a report for people.
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

/// Prints to standard output, without colour if that is not a terminal. A closed pipe is not an
/// error.
fn print(text: &str) {
    let _ = anstream::stdout().write_all(text.as_bytes());
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
