//! The runtime's log format: `TIME stdout|stderr P|F text`, where P is a part of a line that goes on in the next.
//! Pure: bytes in, bytes out.

/// What of a log is wanted (upstream: PodLogOptions).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub timestamps: bool,
    /// Lines stamped before this (RFC 3339, UTC, nanoseconds as the runtime writes them) are passed over.
    pub since: Option<String>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<&'static str>,
    /// Bytes left to give.
    pub limit: Option<usize>,
}

impl Wanted {
    /// What a client sees of one line of the file (its newline included); `None` once the limit is reached.
    pub fn render(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        if self.limit == Some(0) {
            return None;
        }
        let Some((time, stream, partial, text)) = parse(line) else { return Some(Vec::new()) };
        if self.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return Some(Vec::new());
        }
        if self.since.as_ref().is_some_and(|since| earlier(time, since.as_bytes())) {
            return Some(Vec::new());
        }
        let mut out = Vec::with_capacity(text.len() + 40);
        if self.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if !partial {
            out.push(b'\n');
        }
        if let Some(limit) = &mut self.limit {
            out.truncate(*limit);
            *limit -= out.len();
        }
        Some(out)
    }
}

/// (time, stream, is partial, text).
type Parts<'a> = (&'a [u8], &'a [u8], bool, &'a [u8]);

/// The parts of a line, without its newline.
fn parse(line: &[u8]) -> Option<Parts<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, stream, tags) = (parts.next()?, parts.next()?, parts.next()?);
    if !matches!(stream, b"stdout" | b"stderr") {
        return None;
    }
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    Some((time, stream, partial, parts.next().unwrap_or_default()))
}

/// Whether a log's time is before `since`: both UTC, compared as seconds, then as fractions of any length.
fn earlier(time: &[u8], since: &[u8]) -> bool {
    let split = |t: &[u8]| -> (Vec<u8>, Vec<u8>) {
        let (seconds, rest) = t.split_at(t.len().min(19));
        let fraction = rest.strip_prefix(b".").unwrap_or_default();
        let digits = fraction.iter().copied().take_while(u8::is_ascii_digit).collect::<Vec<_>>();
        (seconds.to_vec(), digits)
    };
    let ((seconds, mut fraction), (since, mut since_fraction)) = (split(time), split(since));
    let length = fraction.len().max(since_fraction.len());
    fraction.resize(length, b'0');
    since_fraction.resize(length, b'0');
    (seconds, fraction) < (since, since_fraction)
}

/// Where the last `lines` lines of `data` begin; a line that continues over parts counts once.
pub fn tail_start(data: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return data.len();
    }
    let mut seen = 0;
    let mut end = data.len();
    while end > 0 {
        let start = data[..end - 1].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let whole = parse(&data[start..end]).is_none_or(|(_, _, partial, _)| !partial);
        if whole {
            if seen == lines {
                return end;
            }
            seen += 1;
        }
        end = start;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:00.000000001Z stdout F one\n\
        2026-01-01T00:00:01.5Z stderr F two\n\
        2026-01-01T00:00:02.000000000Z stdout P th\n\
        2026-01-01T00:00:02.000000001Z stdout F ree\n";

    fn all(mut wanted: Wanted, log: &[u8]) -> String {
        let lines = log.split_inclusive(|b| *b == b'\n');
        let shown = lines.map_while(|line| wanted.render(line)).flatten().collect::<Vec<_>>();
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn parts_of_a_line_are_joined() {
        assert_eq!(all(Wanted::default(), LOG), "one\ntwo\nthree\n");
    }

    #[test]
    fn options_choose_what_is_shown() {
        let table = [
            (Wanted { stream: Some("stderr"), ..Wanted::default() }, "two\n"),
            (Wanted { since: Some("2026-01-01T00:00:01.500Z".into()), ..Wanted::default() }, "two\nthree\n"),
            (Wanted { since: Some("2026-01-01T00:00:01.6Z".into()), ..Wanted::default() }, "three\n"),
            (Wanted { limit: Some(5), ..Wanted::default() }, "one\nt"),
            (Wanted { timestamps: true, limit: Some(35), ..Wanted::default() }, "2026-01-01T00:00:00.000000001Z one\n"),
        ];
        for (wanted, shown) in table {
            assert_eq!(all(wanted.clone(), LOG), shown, "{wanted:?}");
        }
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        let table = [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (3, "one\ntwo\nthree\n"), (9, "one\ntwo\nthree\n")];
        for (lines, shown) in table {
            assert_eq!(all(Wanted::default(), &LOG[tail_start(LOG, lines)..]), shown, "{lines}");
        }
    }

    #[test]
    fn what_is_no_log_line_is_passed_over() {
        assert_eq!(all(Wanted::default(), b"\ngarbage\nx y\n"), "");
        assert_eq!(tail_start(b"garbage", 1), 0);
    }
}
