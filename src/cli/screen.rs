//! Where a subcommand's findings are read.

use std::io::{self, IsTerminal};

/// What standard output is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Screen {
    pub is_terminal: bool,
    pub is_coloured: bool,
    /// A terminal's columns, if it has any.
    pub width: Option<u16>,
    /// And its lines.
    pub height: Option<u16>,
}

/// What a word means, in the code of terminals.
#[derive(Debug, Clone, Copy)]
pub enum Colour {
    Red,
    Yellow,
    Green,
    Cyan,
}

impl Screen {
    /// As it is now: windows change their size.
    pub fn of_output() -> Self {
        let out = io::stdout();
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let is_terminal = out.is_terminal();
        Self {
            is_terminal,
            is_coloured: is_terminal && std::env::var_os("NO_COLOR").is_none(),
            width: size.map(|size| size.ws_col).filter(|columns| *columns > 0),
            height: size.map(|size| size.ws_row).filter(|lines| *lines > 0),
        }
    }

    /// A word in its colour, where there are any.
    pub fn painted(&self, word: &str, colour: Option<Colour>) -> String {
        let Some(colour) = colour.filter(|_| self.is_coloured) else { return word.to_owned() };
        let code = match colour {
            Colour::Red => "1;31",
            Colour::Yellow => "33",
            Colour::Green => "32",
            Colour::Cyan => "36",
        };
        format!("\x1b[{code}m{word}\x1b[0m")
    }

    /// Whether every line has room.
    pub fn fits(&self, lines: &[String]) -> bool {
        self.width.is_none_or(|width| lines.iter().all(|line| line.chars().count() <= usize::from(width)))
    }

    /// A paragraph as lines that have room, if it can be: broken between words, and behind the commas of a word that is
    /// too long alone. All lines but the first are indented once more.
    pub fn paragraph(&self, indent: usize, text: &str) -> Vec<String> {
        let width = self.width.map_or(usize::MAX, usize::from);
        let length = |text: &str| text.chars().count();
        let mut lines = Vec::new();
        let mut line = " ".repeat(indent);
        let mut gap = "";
        for word in text.split(' ') {
            let is_too_long = indent + length(word) > width;
            let pieces: Vec<_> = if is_too_long { word.split_inclusive(',').collect() } else { vec![word] };
            for piece in pieces {
                if length(&line) + gap.len() + length(piece) > width && !line.trim().is_empty() {
                    lines.push(std::mem::replace(&mut line, " ".repeat(indent + 2)));
                    gap = "";
                }
                line = line + gap + piece;
                gap = "";
            }
            gap = " ";
        }
        lines.push(line);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_broken_where_it_reads_well() {
        let screen = |width| Screen { width, ..Screen::default() };
        let text = "remedy: dial tcp://one:1,two:2,three:3 again";
        assert_eq!(screen(None).paragraph(2, text), [format!("  {text}")]);
        assert_eq!(
            screen(Some(30)).paragraph(2, text),
            ["  remedy: dial", "    tcp://one:1,two:2,three:3", "    again"]
        );
        assert_eq!(
            screen(Some(20)).paragraph(2, text),
            ["  remedy: dial", "    tcp://one:1,", "    two:2,three:3", "    again"]
        );
        assert_eq!(screen(Some(1)).paragraph(0, "a b"), ["a", "  b"]);
    }
}
