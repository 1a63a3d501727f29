//! Rows in aligned columns, as kubectl and docker show theirs: no lines around them, so that grep, cut and awk can read them.

use super::screen::Screen;

/// Between two columns.
const GAP: &str = "   ";

/// Where there is nothing to show.
pub(super) const NOTHING: &str = "-";

/// The table as lines, if the screen has room for it; `paint` colours a cell.
pub(super) fn fitting(
    screen: &Screen,
    header: &[&str],
    rows: &[Vec<String>],
    paint: impl Fn(&str) -> String,
) -> Option<Vec<String>> {
    screen.fits(&lines(header, rows, str::to_owned)).then(|| lines(header, rows, paint))
}

/// The header and the rows as lines; `paint` colours a cell.
pub(super) fn lines(header: &[&str], rows: &[Vec<String>], paint: impl Fn(&str) -> String) -> Vec<String> {
    let header: Vec<_> = header.iter().map(|name| name.to_uppercase()).collect();
    let length = |cell: &String| cell.chars().count();
    let width = |column: usize| rows.iter().chain([&header]).map(|row| length(&row[column])).max();
    let widths: Vec<_> = (0..header.len()).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        // The padding behind the paint, whose own characters take no room on the screen.
        let pad = |(cell, width): (&String, &usize)| paint(cell) + &" ".repeat(width - length(cell));
        let cells: Vec<_> = row.iter().zip(&widths).map(pad).collect();
        cells.join(GAP).trim_end().to_owned()
    };
    [&header].into_iter().chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_colours_take_no_room() {
        let rows = [["ok", "a:1"], ["problem", "äöü"]].map(|row| row.map(str::to_owned).to_vec());
        let paint = |cell: &str| if cell == "ok" { format!("<{cell}>") } else { cell.to_owned() };
        assert_eq!(
            lines(&["state", "link"], &rows, paint),
            ["STATE     LINK", "<ok>        a:1", "problem   äöü"]
        );
    }
}
