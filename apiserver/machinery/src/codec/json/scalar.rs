//! Types with a text form of their own: times, durations, base64. Go's parsing, its canonical output and its errors.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use crate::text::quote;

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// metav1.Time: RFC 3339, written in UTC with whole seconds.
pub(crate) fn time(text: &str) -> Result<String, String> {
    Ok(parse_time(text, RFC3339)?.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// metav1.MicroTime: RFC 3339 with six decimals, written in UTC.
pub(crate) fn micro_time(text: &str) -> Result<String, String> {
    Ok(parse_time(text, RFC3339_MICRO)?.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

struct Clock<'a> {
    whole: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl<'a> Clock<'a> {
    fn fail<T>(&self, element: &str) -> Result<T, String> {
        let (text, layout) = (quote(self.whole), quote(self.layout));
        Err(format!("parsing time {text} as {layout}: cannot parse {} as {}", quote(self.rest), quote(element)))
    }

    fn range<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("parsing time {}: {what} out of range", quote(self.whole)))
    }

    fn digits(&mut self, count: usize, element: &str) -> Result<u32, String> {
        match self.rest.get(..count).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) {
            Some(text) => {
                self.rest = &self.rest[count..];
                Ok(text.parse().expect("at most six digits"))
            }
            None => self.fail(element),
        }
    }

    fn sign(&mut self, sign: &str) -> Result<(), String> {
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => self.fail(sign),
        }
    }

    /// Nanoseconds; optional in the plain layout, six digits in the other.
    fn fraction(&mut self) -> Result<u32, String> {
        let digits = self.rest.get(1..).map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        let has = self.rest.starts_with(['.', ',']) && digits > 0;
        if self.layout == RFC3339_MICRO && !(has && digits >= 6) {
            return self.fail(".000000");
        }
        if !has {
            return Ok(0);
        }
        let used = if self.layout == RFC3339_MICRO { 6 } else { digits };
        let text: String = self.rest[1..1 + used].chars().chain("000000000".chars()).take(9).collect();
        self.rest = &self.rest[1 + used..];
        Ok(text.parse().expect("nine digits"))
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let digit = |at: usize| bytes.get(at).filter(|byte| byte.is_ascii_digit()).map(|byte| i64::from(byte - b'0'));
        let zone = match (bytes.first(), digit(1), digit(2), bytes.get(3), digit(4), digit(5)) {
            (Some(sign @ (b'+' | b'-')), Some(h1), Some(h2), Some(b':'), Some(m1), Some(m2)) => {
                let (hours, minutes) = (h1 * 10 + h2, m1 * 10 + m2);
                if hours > 24 {
                    return self.range("time zone offset hour");
                }
                if minutes > 60 {
                    return self.range("time zone offset minute");
                }
                (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
            }
            _ => return self.fail("Z07:00"),
        };
        self.rest = &self.rest[6..];
        Ok(zone)
    }
}

fn parse_time(text: &str, layout: &'static str) -> Result<DateTime<Utc>, String> {
    let mut clock = Clock { whole: text, rest: text, layout };
    let year = clock.digits(4, "2006")?;
    clock.sign("-")?;
    let month = clock.digits(2, "01")?;
    if !(1..=12).contains(&month) {
        return clock.range("month");
    }
    clock.sign("-")?;
    let day = clock.digits(2, "02")?;
    clock.sign("T")?;
    let hour = clock.digits(2, "15")?;
    if hour > 23 {
        return clock.range("hour");
    }
    clock.sign(":")?;
    let minute = clock.digits(2, "04")?;
    if minute > 59 {
        return clock.range("minute");
    }
    clock.sign(":")?;
    let second = clock.digits(2, "05")?;
    if second > 59 {
        return clock.range("second");
    }
    let nanos = clock.fraction()?;
    let zone = clock.zone()?;
    if !clock.rest.is_empty() {
        return Err(format!("parsing time {}: extra text: {}", quote(text), quote(clock.rest)));
    }
    let Some(date) = NaiveDate::from_ymd_opt(year as i32, month, day) else { return clock.range("day") };
    let local = date.and_hms_nano_opt(hour, minute, second, nanos).expect("ranges are checked above");
    Ok((local - TimeDelta::seconds(zone)).and_utc())
}

pub(crate) fn base64_of(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Standard base64 with padding; newlines are passed over, as in Go.
pub(crate) fn base64(text: &str) -> Result<String, String> {
    let clean: String;
    let input = if text.contains(['\r', '\n']) {
        clean = text.replace(['\r', '\n'], "");
        &clean
    } else {
        text
    };
    match STANDARD.decode(input) {
        Ok(_) => Ok(input.to_owned()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => input.len() / 4 * 4,
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// metav1.Duration: Go's `1h2m3.5s`, in nanoseconds.
pub(crate) fn duration_nanos(text: &str) -> Result<i64, String> {
    let fault = |kind: &str| Err(format!("time: {kind} {}", quote(text)));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return fault("invalid duration");
    }
    let mut total: f64 = 0.0;
    let mut exact: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (amount, after) = rest.split_at(digits);
        if amount.is_empty() || amount == "." || amount.matches('.').count() > 1 {
            return fault("invalid duration");
        }
        let letters = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        let scale: i128 = match unit {
            "" => return fault("missing unit in duration"),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text))),
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        exact = exact.saturating_add(whole_units(whole).saturating_mul(scale));
        total += format!("0.{fraction}").parse::<f64>().unwrap_or(0.0) * scale as f64;
        rest = next;
    }
    exact = exact.saturating_add(total as i128);
    match i64::try_from(if negative { -exact } else { exact }) {
        Ok(nanos) => Ok(nanos),
        Err(_) => fault("invalid duration"),
    }
}

/// A whole number of units; what is too large is too large for a duration as well.
fn whole_units(digits: &str) -> i128 {
    if digits.is_empty() { 0 } else { digits.parse().unwrap_or(i128::MAX) }
}

/// Go's `Duration.String`.
pub(crate) fn duration_text(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let decimals = |value: u64, unit: u64| {
        let (whole, rest) = (value / unit, value % unit);
        let width = unit.ilog10() as usize;
        let text = format!("{rest:0width$}");
        let text = text.trim_end_matches('0');
        if rest == 0 { whole.to_string() } else { format!("{whole}.{text}") }
    };
    if nanos < 1_000 {
        return format!("{sign}{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{sign}{}µs", decimals(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{sign}{}ms", decimals(nanos, 1_000_000));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimals(nanos % 60_000_000_000, 1_000_000_000);
    match minutes {
        0 => format!("{sign}{seconds}s"),
        1..60 => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{}h{}m{seconds}s", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parse_and_print_as_go() {
        let zone = r#"parsing time "2020-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#;
        for (input, expected) in [
            ("2020-01-02T03:04:05Z", Ok("2020-01-02T03:04:05Z")),
            ("2020-01-02T03:04:05.999+02:00", Ok("2020-01-02T01:04:05Z")),
            ("2020-01-02", Err(zone)),
            ("", Err(r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#)),
            ("2020-13-02T03:04:05Z", Err(r#"parsing time "2020-13-02T03:04:05Z": month out of range"#)),
            ("2020-02-30T03:04:05Z", Err(r#"parsing time "2020-02-30T03:04:05Z": day out of range"#)),
            ("2020-01-02T03:04:05Zx", Err(r#"parsing time "2020-01-02T03:04:05Zx": extra text: "x""#)),
        ] {
            assert_eq!(time(input).as_deref().map_err(String::as_str), expected, "{input}");
        }
        assert_eq!(micro_time("2020-01-02T03:04:05.123456Z").unwrap(), "2020-01-02T03:04:05.123456Z");
        assert!(micro_time("2020-01-02T03:04:05Z").unwrap_err().ends_with(r#"cannot parse "Z" as ".000000""#));
    }

    #[test]
    fn durations_parse_and_print_as_go() {
        for (input, expected) in [
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("10ms", "10ms"),
            ("0", "0s"),
            ("-1m", "-1m0s"),
            ("1us", "1µs"),
        ] {
            assert_eq!(duration_text(duration_nanos(input).unwrap()), expected);
        }
        for (input, expected) in [
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            (
                "99999999999999999999999999999999999999999h9h",
                "time: invalid duration \"99999999999999999999999999999999999999999h9h\"",
            ),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
        ] {
            assert_eq!(duration_nanos(input).unwrap_err(), expected);
        }
    }

    #[test]
    fn base64_names_the_bad_byte() {
        assert_eq!(base64("YWJj\nZA==").unwrap(), "YWJjZA==");
        assert_eq!(base64("a*==").unwrap_err(), "illegal base64 data at input byte 1");
    }
}
