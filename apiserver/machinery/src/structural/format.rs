//! The string formats that custom resources' schemas enforce (apiextensions-apiserver/pkg/apiserver/validation/formats.go
//! and kube-openapi/pkg/validation/strfmt). Formats that are not listed are passed over.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

const STRINGS: [&str; 24] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
];
const NAMES: [&str; 2] = ["k8sshortname", "k8slongname"];

fn normal(format: &str) -> String {
    format.replace('-', "")
}

/// Whether a format of strings is enforced.
pub fn is_known(format: &str) -> bool {
    let format = normal(format);
    STRINGS.contains(&&*format) || NAMES.contains(&&*format)
}

/// The format, or "" where it means nothing for these types.
pub(super) fn enforced<'a>(format: &'a str, types: &[String]) -> &'a str {
    let kind = if let [kind] = types { kind.as_str() } else { "" };
    let known = match kind {
        "" | "string" => is_known(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if known { format } else { "" }
}

macro_rules! regexes {
    ($($name:ident = $pattern:expr;)*) => { $(
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("the pattern is written here"));
    )* };
}

regexes! {
    OBJECT_ID = "^[0-9a-fA-F]{24}$";
    HOSTNAME = concat!(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|",
        r"([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9\-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"
    );
    UUID = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID3 = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID4 = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    UUID5 = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    CREDIT_CARD = concat!(
        "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|(222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}",
        "|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11}",
        "|6[27][0-9]{14})$"
    );
    SSN = "^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$";
    HEX_COLOR = "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = concat!(
        r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])",
        r"\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$"
    );
    BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$";
    DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$";
    DATE_TIME = concat!(
        r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?",
        r"([zZ]|([+-]([0-9]{2}):([0-9]{2})))?$"
    );
    SCALA_DURATION = concat!(
        "^[0-9]+ ?(ns|nano|nanos|nanosecond|nanoseconds|us|µs|micro|micros|microsecond|microseconds|ms|milli|millis",
        "|millisecond|milliseconds|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hour|hours|d|day|days|w|week|weeks)$"
    );
    SHORT_NAME = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
    LONG_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    EMAIL = r#"^(?:[^<>]*<)?[A-Za-z0-9.!#$%&'*+/=?^_`{|}~\-\u{80}-\u{10ffff}]+@[A-Za-z0-9.\-\[\]:_\u{80}-\u{10ffff}]+>?$"#;
}

/// Whether a text has a known format.
pub(super) fn matches(format: &str, text: &str) -> bool {
    match &*normal(format) {
        "bsonobjectid" => OBJECT_ID.is_match(text),
        "uri" => is_request_uri(text),
        "email" => EMAIL.is_match(text),
        "hostname" => HOSTNAME.is_match(text) && text.split('.').all(|label| label.len() <= 63),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => UUID3.is_match(text),
        "uuid4" => UUID4.is_match(text),
        "uuid5" => UUID5.is_match(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => SSN.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "rgbcolor" => RGB_COLOR.is_match(text),
        "byte" => BASE64.is_match(text),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => text.len() <= 63 && SHORT_NAME.is_match(text),
        "k8slongname" => text.len() <= 253 && LONG_NAME.is_match(text),
        _ => true,
    }
}

/// What Go's `url.ParseRequestURI` takes: an absolute path or a URI with a scheme.
fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// 6, 8 or 20 bytes, with colons, hyphens or dots.
fn is_mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize| {
        let parts: Vec<&str> = text.split(separator).collect();
        let right = parts.iter().all(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_hexdigit()));
        right && [6, 8, 20].contains(&(parts.len() * digits / 2))
    };
    groups(':', 2) || groups('-', 2) || groups('.', 4)
}

fn is_isbn10(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    if digits.len() != 10 {
        return false;
    }
    let mut sum = 0;
    for (at, c) in digits.iter().enumerate() {
        let digit = match c {
            'X' if at == 9 => 10,
            c => match c.to_digit(10) {
                Some(digit) => digit as usize,
                None => return false,
            },
        };
        sum += (at + 1) * digit;
    }
    sum.is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let digits: Option<Vec<u32>> = text.chars().filter(|c| !matches!(c, ' ' | '-')).map(|c| c.to_digit(10)).collect();
    let Some(digits) = digits.filter(|digits| digits.len() == 13) else { return false };
    let sum: u32 = digits.iter().enumerate().map(|(at, digit)| if at % 2 == 0 { *digit } else { digit * 3 }).sum();
    sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn = |(at, c): (usize, char)| {
        let digit = c.to_digit(10).unwrap_or(0);
        let doubled = digit * 2;
        if at % 2 == 0 { digit } else { doubled / 10 + doubled % 10 }
    };
    CREDIT_CARD.is_match(&digits) && digits.chars().rev().enumerate().map(luhn).sum::<u32>().is_multiple_of(10)
}

fn is_date(text: &str) -> bool {
    DATE.is_match(text) && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't']) else { return false };
    let Some(parts) = DATE_TIME.captures(time) else { return false };
    let number = |at: usize| parts.get(at).and_then(|part| part.as_str().parse::<u32>().ok()).unwrap_or(0);
    is_date(date) && number(1) <= 23 && number(2) <= 59 && number(3) <= 59
}

fn is_duration(text: &str) -> bool {
    crate::codec::json::scalar::duration_nanos(text).is_ok() || SCALA_DURATION.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_good_from_bad() {
        for (format, good, bad) in [
            ("bsonobjectid", "5f43d8b0c2a4e6f801234567", "5f"),
            ("uri", "http://a.b/c", "not a uri"),
            ("email", "a@b.example", "a.example"),
            ("hostname", "my.host.example", "-a-"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "01:23:45:67:89:ab", "01:23:45"),
            ("uuid", "a7c3c8fc-7e9b-4cf8-8c3a-0a5a0a0a0a0a", "x"),
            ("uuid4", "a7c3c8fc-7e9b-4cf8-8c3a-0a5a0a0a0a0a", "a7c3c8fc-7e9b-3cf8-8c3a-0a5a0a0a0a0a"),
            ("isbn", "0321751043", "0321751041"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4012-8888-8888-1881", "4012-8888-8888-1882"),
            ("ssn", "111-11-1111", "111-1-1"),
            ("hexcolor", "#fff", "#ffff"),
            ("rgbcolor", "rgb(1,2,255)", "rgb(1,2,256)"),
            ("byte", "aGVsbG8=", "a==="),
            ("date", "2006-01-02", "2006-13-02"),
            ("date-time", "2014-12-15T19:30:20.000Z", "2014-12-15"),
            ("duration", "22 ns", "22 x"),
            ("duration", "1h30m", "1"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A"),
        ] {
            assert!(is_known(format), "{format}");
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        assert!(!is_known("color"));
    }
}
