//! The notation of values: quotes, flags, numbers, durations and lists.
//!
//! Unambiguous variants are accepted. Ambiguous values are refused, and the error shows an accepted form.

use std::time::Duration;

/// Why a value is refused, and the value to write instead, if known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) instead: Option<String>,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { reason, instead: None }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Self::from(reason.to_owned())
    }
}

impl Refusal {
    pub(super) fn instead(reason: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { reason: reason.into(), instead: Some(instead.into()) }
    }

    /// The remedy: the value to write, else the general form.
    pub(super) fn remedy(&self, variable: &str, general: &str) -> String {
        match &self.instead {
            Some(value) => format!("write {variable}={value}"),
            None => general.to_owned(),
        }
    }
}

/// Strips white space and one pair of quotation marks: `docker run --env-file` and Kubernetes keep those that a shell
/// or systemd would remove.
pub(super) fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inner = ['"', '\''].into_iter().find_map(|mark| {
        let inner = text.strip_prefix(mark)?.strip_suffix(mark)?;
        (!inner.contains(mark)).then_some(inner)
    });
    inner.map_or(text, str::trim)
}

/// The items of a list, separated by commas, semicolons or white space.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ';']).flat_map(str::split_whitespace)
}

/// Parses every item of a list. The suggestion for a refused item is the whole list with that item corrected.
pub(super) fn each<T>(items: &[&str], parse: impl Fn(&str) -> Result<T, Refusal>) -> Result<Vec<T>, Refusal> {
    let read = items.iter().enumerate().map(|(index, item)| {
        parse(item).map_err(|refusal| match refusal.instead {
            Some(instead) if items.len() > 1 => {
                let right = instead.split(" (").next().unwrap_or_default();
                let list = [&items[..index], &[right], &items[index + 1..]].concat().join(",");
                Refusal::instead(refusal.reason, list)
            }
            _ => refusal,
        })
    });
    read.collect()
}

pub(super) fn is_off(text: &str) -> bool {
    text.eq_ignore_ascii_case("off")
}

pub(super) fn flag(text: &str) -> Result<bool, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false").into()),
    }
}

/// Normalises a keyword: lower case, dashes for underscores.
pub(super) fn word(text: &str) -> String {
    text.to_ascii_lowercase().replace('_', "-")
}

/// A number of at least 1.
pub(super) fn count(text: &str) -> Result<usize, Refusal> {
    match text.parse() {
        Ok(0) => Err("0 is none at all".into()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("\"{text}\" is not a number from 1 on").into()),
    }
}

/// The remedy for a [`duration`].
pub(super) const DURATION: &str = "write a number and a unit, such as 500ms, 5s or 1h";

/// The remedy for a [`duration_or_off`].
pub(super) const DURATION_OR_OFF: &str = "write a number and a unit, such as 500ms, 5s or 1h, or off";

/// A duration: `5s`, `500ms`, `1h 30m`; `0s` only if `zero`.
pub(super) fn duration(text: &str, zero: bool) -> Result<Duration, Refusal> {
    // Units are case-insensitive.
    let lower = text.to_lowercase();
    let Ok(duration) = humantime::parse_duration(&lower) else {
        return Err(without_unit(&lower).unwrap_or_else(|| format!("\"{text}\" is not a duration").into()));
    };
    if duration.is_zero() && !zero {
        return Err(format!("\"{text}\" must be greater than zero").into());
    }
    // A century: longer ones would overflow in the arithmetic of deadlines.
    if duration > Duration::from_hours(100 * 365 * 24) {
        return Err(format!("\"{text}\" is longer than a century").into());
    }
    Ok(duration)
}

/// The refusal of a number without a unit: some tools use seconds, others milliseconds.
fn without_unit(text: &str) -> Option<Refusal> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = text.parse::<f64>().ok().filter(|number| is_number && *number > 0.0)?;
    let milliseconds = if number.fract() == 0.0 {
        format!(" (or {text}ms, if these are milliseconds)")
    } else {
        String::new()
    };
    Some(Refusal::instead(format!("\"{text}\" has no unit"), format!("{text}s{milliseconds}")))
}

/// A duration, or `off`.
pub(super) fn duration_or_off(text: &str) -> Result<Option<Duration>, Refusal> {
    if is_off(text) {
        return Ok(None);
    }
    let off = |reason| Refusal::instead(reason, "off");
    match duration(text, true) {
        Ok(Duration::ZERO) => Err(off(format!("\"{text}\" must be greater than zero"))),
        Ok(duration) => Ok(Some(duration)),
        Err(refusal) if NEVER.contains(&word(text).as_str()) => Err(off(refusal.reason)),
        Err(refusal) => Err(refusal),
    }
}

/// Other programs' words for `off`.
const NEVER: &[&str] = &["never", "none", "no", "false", "disabled", "infinite", "infinity", "unlimited"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_of_quotation_marks_is_taken_away() {
        for (written, meant) in [
            ("\"a b\"", "a b"),
            (" 'a' ", "a"),
            ("\" a \"", "a"),
            ("\"a", "\"a"),
            ("\"", "\""),
            ("\"a\" \"b\"", "\"a\" \"b\""),
            ("it's", "it's"),
            ("\"\"", ""),
        ] {
            assert_eq!(unquoted(written), meant, "{written}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (written, seconds) in [
            ("5s", 5.0),
            ("5 s", 5.0),
            ("5S", 5.0),
            ("5 Seconds", 5.0),
            ("500ms", 0.5),
            ("500 MS", 0.5),
            ("0.5s", 0.5),
            ("2M", 120.0),
            ("1h 30m", 5400.0),
            ("1h30m", 5400.0),
        ] {
            let read = duration(written, false).unwrap_or_else(|refusal| panic!("{written}: {refusal:?}"));
            assert!((read.as_secs_f64() - seconds).abs() < 1e-9, "{written}: {read:?}");
        }
        for zero in ["0", "0s", "0 ms"] {
            assert_eq!(duration(zero, true), Ok(Duration::ZERO), "{zero}");
            assert!(duration(zero, false).is_err(), "{zero}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_is_shown_with_one() {
        let refusal = duration("5000", false).unwrap_err();
        let remedy = refusal.remedy("REDIS_IDLE_TIMEOUT", "");
        assert_eq!(remedy, "write REDIS_IDLE_TIMEOUT=5000s (or 5000ms, if these are milliseconds)");
        assert_eq!(duration("1.5", false).unwrap_err().instead.as_deref(), Some("1.5s"));
        for never in ["0", "0s", "Never", "none"] {
            assert_eq!(duration_or_off(never).unwrap_err().instead.as_deref(), Some("off"), "{never}");
        }
        assert_eq!(duration_or_off("OFF"), Ok(None));
    }
}
