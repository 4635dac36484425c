//! Colour on a terminal.

use std::{env, fmt, io::IsTerminal as _};

/// Whether to print ANSI colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Coloured,
}

/// ANSI foreground colours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

impl Style {
    /// Colours a text if stdout is a terminal, unless `NO_COLOR` (<https://no-color.org>) is set or
    /// `TERM` is `dumb`.
    pub(crate) fn from_environment() -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stdout().is_terminal() && !no_color && !dumb {
            Self::Coloured
        } else {
            Self::Plain
        }
    }

    pub(crate) fn paint(self, colour: Colour, text: impl fmt::Display) -> String {
        match self {
            Self::Plain => text.to_string(),
            Self::Coloured => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
        }
    }
}
