//! Markdown as the tests of the documents read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::documents::read;

/// A page of the repository.
pub(crate) struct Page {
    /// Its path from the top of the repository.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block of code.
pub(crate) struct Block<'a> {
    pub(crate) language: &'a str,
    pub(crate) code: String,
}

impl Page {
    pub(crate) fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { text: read(&path), path }
    }

    /// Every page but what builds have left.
    pub(crate) fn all() -> Vec<Self> {
        let mut pages = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(top().join(&folder)).expect("a folder");
            for entry in entries.map(|entry| entry.expect("an entry")) {
                let name = entry.file_name();
                let path = folder.join(&name);
                if entry.file_type().expect("a type").is_dir() {
                    if name != "target" && !name.to_string_lossy().starts_with('.') {
                        folders.push(path);
                    }
                } else if path.extension().is_some_and(|extension| extension == "md") {
                    pages.push(Self::open(path));
                }
            }
        }
        pages
    }

    /// The lines that are no code.
    pub(crate) fn prose(&self) -> impl Iterator<Item = &str> {
        let mut inside = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        })
    }

    pub(crate) fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks: Vec<Block<'_>> = Vec::new();
        let mut inside = false;
        for line in self.text.lines() {
            match line.strip_prefix("```") {
                Some(_) if inside => inside = false,
                Some(language) => {
                    inside = true;
                    blocks.push(Block { language, code: String::new() });
                }
                None if inside => {
                    let block = blocks.last_mut().expect("it has begun");
                    block.code.push_str(line);
                    block.code.push('\n');
                }
                None => {}
            }
        }
        blocks
    }

    /// The blocks of that language that hold these words.
    pub(crate) fn blocks_with<'a>(&'a self, language: &str, words: &str) -> Vec<Block<'a>> {
        let mut blocks = self.blocks();
        blocks.retain(|block| block.language == language && block.code.contains(words));
        blocks
    }

    /// The headings without their signs, each with the heading that it is below.
    pub(crate) fn headings(&self) -> Vec<(String, &str)> {
        let mut above: Vec<&str> = Vec::new();
        let mut headings = Vec::new();
        for line in self.prose().filter(|line| line.starts_with('#')) {
            let text = line.trim_start_matches('#');
            let level = line.len() - text.len();
            above.truncate(level - 1);
            headings.push((above.join(" / "), text.trim()));
            above.push(text.trim());
        }
        headings
    }

    /// What a link may name behind its `#`, as GitHub makes it.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let mut counts = BTreeMap::<String, usize>::new();
        let mut anchors = BTreeSet::new();
        for (_, heading) in self.headings() {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor: String = kept.collect::<String>().to_lowercase().replace(' ', "-");
            let count = counts.entry(anchor.clone()).or_default();
            anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
            *count += 1;
        }
        anchors
    }

    /// The targets of links and pictures.
    pub(crate) fn links(&self) -> Vec<String> {
        let prose: Vec<_> = self.prose().collect();
        let mut links = Vec::new();
        // Every second part is code.
        for part in prose.join("\n").split('`').step_by(2) {
            for rest in part.split("](").skip(1) {
                links.push(rest.split(')').next().expect("a first part").to_owned());
            }
        }
        links
    }
}

/// The top of the repository.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Code in backquotes.
pub(crate) fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Prose wrapped at 80 columns, below `bullet` and indented by as much. Code stays in one line, for who searches it.
pub(crate) fn wrapped(bullet: &str, text: &str) -> String {
    const COLUMNS: usize = 80;
    // A space that no line ends at.
    const KEPT: &str = "\0";
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = words.split('`').enumerate();
    let parts: Vec<_> =
        parts.map(|(at, part)| if at % 2 == 1 { part.replace(' ', KEPT) } else { part.to_owned() }).collect();
    let indent = " ".repeat(bullet.chars().count());
    let mut lines = Vec::new();
    let mut line = bullet.to_owned();
    let mut begins = true;
    for word in parts.join("`").split_whitespace() {
        if !begins && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            begins = true;
        }
        if !begins {
            line.push(' ');
        }
        line.push_str(word);
        begins = false;
    }
    lines.push(line);
    lines.join("\n").replace(KEPT, " ") + "\n"
}
