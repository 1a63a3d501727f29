//! The files of AWS' profiles: sections with assignments.

use zeroize::Zeroizing;

/// The profiles of a file.
pub struct Profiles {
    text: Zeroizing<String>,
    sections: Sections,
}

/// How a file names a profile's section.
#[derive(Debug, Clone, Copy)]
pub enum Sections {
    /// `[NAME]`, as in the file of credentials.
    Bare,
    /// `[profile NAME]`, or `[profile "NAME"]`, and `[default]`, as in that of the configuration.
    Profile,
}

impl Profiles {
    pub fn new(text: Zeroizing<String>, sections: Sections) -> Self {
        Self { text, sections }
    }

    /// Whether there is such a profile.
    pub fn has(&self, profile: &str) -> bool {
        self.lines().any(|line| self.profile(line) == Some(profile))
    }

    /// The profile whose section begins with this line; an empty name for a section of another kind.
    fn profile<'a>(&self, line: &'a str) -> Option<&'a str> {
        let name = section(line)?;
        Some(match self.sections {
            Sections::Profile if name == "default" => name,
            Sections::Profile => match name.strip_prefix("profile") {
                Some(name) if name.starts_with([' ', '\t']) => name.trim().trim_matches(['"', '\'']),
                _ => "",
            },
            Sections::Bare => name,
        })
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

    /// The value in a profile; the last one where there are several.
    pub fn value(&self, profile: &str, name: &str) -> Option<&str> {
        let mut is_within = false;
        let mut value = None;
        for line in self.lines() {
            if let Some(found) = self.profile(line) {
                is_within = found == profile;
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
        let profiles = Profiles::new(Zeroizing::new(text.to_owned()), Sections::Bare);
        assert_eq!((profiles.value("a", "key"), profiles.value("a", "other")), (Some("1"), Some("2")));
        assert_eq!(profiles.value("a", "nested"), None);
        assert!(profiles.has("a") && !profiles.has("c"));
        let text = "[a]\nkey = 1\n[b]\n\tkey = 4\n";
        let profiles = Profiles::new(Zeroizing::new(text.to_owned()), Sections::Bare);
        assert_eq!((profiles.value("a", "key"), profiles.value("b", "key")), (Some("1"), Some("4")));
    }

    /// As AWS' own libraries name them in the file of the configuration.
    #[test]
    fn a_section_of_the_configuration_names_its_profile() {
        let text = "[profile default]\na=1\n[profile \"my team\"]\na=2\n[profile\tb]\na=3\n[c]\na=4\n[profiled]\na=5\n";
        let profiles = Profiles::new(Zeroizing::new(text.to_owned()), Sections::Profile);
        for (profile, value) in
            [("default", Some("1")), ("my team", Some("2")), ("b", Some("3")), ("c", None), ("d", None)]
        {
            assert_eq!(profiles.value(profile, "a"), value, "{profile}");
            assert_eq!(profiles.has(profile), value.is_some(), "{profile}");
        }
        let profiles = Profiles::new(Zeroizing::new("[default]\na=1\n".to_owned()), Sections::Profile);
        assert_eq!(profiles.value("default", "a"), Some("1"));
    }
}
