//! Figures and times in a few characters, for people.

use std::time::Duration;

/// A figure in a few characters.
pub fn short(figure: f32) -> String {
    match figure {
        ..9.95 => {
            let text = format!("{figure:.1}");
            text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
        }
        ..999.5 => format!("{figure:.0}"),
        ..9_999.5 => {
            let digits = format!("{figure:.0}");
            let (thousands, rest) = digits.split_at(1);
            format!("{thousands},{rest}")
        }
        ..1e6 => format!("{:.1}k", figure / 1e3),
        _ => format!("{:.1}M", figure / 1e6),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people has few digits")]
pub fn float(count: usize) -> f32 {
    count as f32
}

#[expect(clippy::cast_precision_loss, reason = "no more than 2⁵³ of anything here")]
pub fn number(count: u64) -> f64 {
    count as f64
}

pub fn count(number: usize, what: &str) -> String {
    format!("{} {what}{}", short(float(number)), if number == 1 { "" } else { "s" })
}

/// A time in milliseconds.
pub fn time(milliseconds: f32) -> String {
    match milliseconds {
        ..1.0 => format!("{milliseconds:.2} ms"),
        ..10.0 => format!("{milliseconds:.1} ms"),
        ..1_000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.1} s", milliseconds / 1e3),
    }
}

/// How long something has been so.
pub fn long(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_in_a_few_characters() {
        let told = [0.0, 0.04, 3.0, 9.94, 9.96, 512.4, 1_234.0, 12_345.0, 3_400_000.0].map(short);
        assert_eq!(told, ["0", "0", "3", "9.9", "10", "512", "1,234", "12.3k", "3.4M"]);
        assert_eq!([0.123, 1.26, 99.9, 1_500.0].map(time), ["0.12 ms", "1.3 ms", "100 ms", "1.5 s"]);
        assert_eq!([5.9, 61.0, 7_300.0, 400_000.0].map(long), ["5 s", "1 min", "2 h", "4 days"]);
    }
}
