//! Sets of completion indexes in the API's notation: `0-3,5`.

use std::collections::BTreeSet;

pub type Indexes = BTreeSet<i64>;

/// The indexes that `text` names, below `limit`.
pub fn parse(text: &str, limit: i64) -> Indexes {
    let mut out = Indexes::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
            out.extend(first.max(0)..=last.min(limit - 1));
        }
    }
    out
}

/// As the API has it.
pub fn format(indexes: &Indexes) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut run: Option<(i64, i64)> = None;
    let text = |(first, last): (i64, i64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    for index in indexes.iter().copied() {
        run = match run {
            Some((first, last)) if last + 1 == index => Some((first, index)),
            Some(done) => {
                parts.push(text(done));
                Some((index, index))
            }
            None => Some((index, index)),
        };
    }
    parts.extend(run.map(text));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_read_and_print_as_intervals() {
        for text in ["", "0", "0,1", "0-2", "0-3,5,7-9"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(parse("0-99999999", 3).len(), 3);
    }
}
