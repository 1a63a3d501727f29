//! The files of AWS' profiles: sections with assignments.

use zeroize::Zeroizing;

/// The sections of a file.
pub struct Profiles {
    text: Zeroizing<String>,
}

impl Profiles {
    pub fn new(text: Zeroizing<String>) -> Self {
        Self { text }
    }

    /// Whether there is such a section.
    pub fn has(&self, section: &str) -> bool {
        self.sections().any(|name| name == section)
    }

    fn sections(&self) -> impl Iterator<Item = &str> {
        self.lines().filter_map(section)
    }

    /// Sections and assignments. What is indented deeper than the assignment before it goes on with its value, which is
    /// never one of ours.
    fn lines(&self) -> impl Iterator<Item = &str> {
        let mut depth_of_value = None;
        self.text.lines().filter_map(move |line| {
            let content = line.trim();
            if content.is_empty() || content.starts_with(['#', ';']) {
                return None;
            }
            let depth = line.len() - line.trim_start().len();
            if depth_of_value.is_some_and(|of_value| depth > of_value) {
                return None;
            }
            depth_of_value = section(content).is_none().then_some(depth);
            Some(content)
        })
    }

    /// The value in a section; the last one where there are several.
    pub fn value(&self, within: &str, name: &str) -> Option<&str> {
        let mut is_within = false;
        let mut value = None;
        for line in self.lines() {
            if let Some(section) = section(line) {
                is_within = section == within;
            } else if let (true, Some((key, found))) = (is_within, line.split_once('='))
                && key.trim().eq_ignore_ascii_case(name)
            {
                // A comment begins behind white space.
                let ends = |(at, _): &(usize, &str)| found[..*at].ends_with([' ', '\t']);
                let end = found.match_indices(['#', ';']).find(ends).map_or(found.len(), |(at, _)| at);
                value = Some(found[..end].trim()).filter(|found| !found.is_empty());
            }
        }
        value
    }
}

fn section(line: &str) -> Option<&str> {
    let inner = line.strip_prefix('[')?;
    Some(inner[..inner.find(']')?].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python's `configparser` reads them, which botocore takes.
    #[test]
    fn what_is_indented_goes_on_with_a_value_only_behind_one_that_is_less_so() {
        let text = "[a]\n  # x\n  key = 1\n\n  other = 2\n    key = 3\n [b]\n\tkey = 4\nnested =\n  key = 5\n  [c]\n";
        let profiles = Profiles::new(Zeroizing::new(text.to_owned()));
        assert_eq!((profiles.value("a", "key"), profiles.value("a", "other")), (Some("1"), Some("2")));
        assert_eq!(profiles.value("a", "nested"), None);
        assert!(profiles.has("a") && !profiles.has("c"));
        let text = "[a]\nkey = 1\n[b]\n\tkey = 4\n";
        let profiles = Profiles::new(Zeroizing::new(text.to_owned()));
        assert_eq!((profiles.value("a", "key"), profiles.value("b", "key")), (Some("1"), Some("4")));
    }
}
