//! resource.Quantity: parsing, canonical text, comparing and adding. Amounts are kept in nano-units, rounded up, within
//! the range of an i128 (1.7e29 units); upstream goes further with decimals that nobody writes.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;

/// How a quantity was written, and so how its canonical form is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    DecimalSI,
    BinarySI,
    DecimalExponent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact amount. Equality and order are by amount, not by text.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
    /// The text as written, when upstream keeps it.
    text: Option<Box<str>>,
}

struct Parts<'a> {
    positive: bool,
    integer: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, ParseQuantityError> {
    let (positive, rest) = match text.as_bytes().first() {
        Some(b'-') => (false, &text[1..]),
        Some(b'+') => (true, &text[1..]),
        _ => (true, text),
    };
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &rest[rest.bytes().take_while(|byte| *byte == b'0').count()..];
    let (integer, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = suffix.bytes().take_while(|byte| b"eEinumkKMGTP".contains(byte)).count();
    let tail = &suffix[letters..];
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if digits(tail) != tail.len() {
        return Err(ParseQuantityError::Format);
    }
    Ok(Parts { positive, integer: if integer.is_empty() { "0" } else { integer }, fraction, suffix })
}

fn interpret(suffix: &str) -> Option<(bool, i32, Format)> {
    let decimal = |exponent| Some((false, exponent, Format::DecimalSI));
    let binary = |exponent| Some((true, exponent, Format::BinarySI));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty())?;
            Some((false, exponent.parse().ok()?, Format::DecimalExponent))
        }
    }
}

/// `digits` × 10^`scale` in nano-units, rounded up; saturates.
fn to_nanos(digits: &str, scale: i64) -> i128 {
    let digits = digits.trim_start_matches('0');
    let shift = scale + 9;
    let keep = digits.len() as i64 + shift;
    if digits.is_empty() {
        return 0;
    }
    if keep > 38 {
        return i128::MAX;
    }
    if shift >= 0 {
        let amount: i128 = digits.parse().unwrap_or(i128::MAX);
        return amount.saturating_mul(10i128.saturating_pow(shift as u32));
    }
    if keep <= 0 {
        return 1;
    }
    let (kept, dropped) = digits.split_at(keep as usize);
    let amount: i128 = kept.parse().unwrap_or(i128::MAX);
    amount.saturating_add(i128::from(dropped.bytes().any(|byte| byte != b'0')))
}

impl Quantity {
    pub fn zero() -> Self {
        Self::default()
    }

    /// A whole number of units.
    pub fn from_i64(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format, text: None }
    }

    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format, text: None }
    }

    pub fn parse(text: &str) -> Result<Self, ParseQuantityError> {
        if text.is_empty() {
            return Err(ParseQuantityError::Format);
        }
        let parts = split(text)?;
        let (binary, exponent, mut format) = interpret(parts.suffix).ok_or(ParseQuantityError::Suffix)?;
        let digits = format!("{}{}", parts.integer, parts.fraction);
        let written = parts.integer.len() + parts.fraction.len();
        let scale = -(parts.fraction.len() as i64);
        let mut nanos;
        let keep_text;
        if binary {
            let precision = 15 - parts.integer.len() as i64 - i64::from(exponent) * 3 / 10 - 1;
            let value: i128 = digits.parse().unwrap_or(i128::MAX);
            let fast = parts.fraction.is_empty()
                && precision >= 0
                && value.checked_shl(exponent as u32).is_some_and(|amount| amount <= i128::from(i64::MAX));
            keep_text = fast && value & 7 != 0;
            nanos = binary_nanos(&digits, scale, exponent as u32).min(i128::from(i64::MAX) * NANO);
            if nanos > 0 && nanos < NANO && !fast {
                format = Format::DecimalSI;
            }
        } else {
            let scale = scale + i64::from(exponent);
            let fast = written <= 18 && scale >= -9;
            keep_text = fast && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0');
            nanos = to_nanos(&digits, scale);
        }
        if !parts.positive {
            nanos = -nanos;
        }
        let text = (keep_text || text == "0").then(|| text.into());
        Ok(Self { nanos, format, text })
    }

    /// Reads what JSON holds for a quantity: a string or a number.
    pub fn from_json(value: &Value) -> Result<Self, ParseQuantityError> {
        match value {
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            Value::Null => Ok(Self::zero()),
            _ => Err(ParseQuantityError::Format),
        }
    }

    /// Whole units, rounded away from zero, within an i64.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths, rounded away from zero, within an i64.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let up = i128::from(self.nanos % unit != 0) * self.nanos.signum();
        let units = self.nanos / unit + up;
        units.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Nano-units, exact.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Adds in place; a zero takes the other's format, as upstream does.
    pub fn add(&mut self, other: &Self) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_add(other.nanos);
        self.text = None;
    }

    pub fn sub(&mut self, other: &Self) {
        if self.nanos == 0 {
            self.format = other.format;
        }
        self.nanos = self.nanos.saturating_sub(other.nanos);
        self.text = None;
    }

    pub fn neg(&mut self) {
        self.nanos = -self.nanos;
        self.text = None;
    }

    fn decimal(&self, format: Format) -> String {
        let mut mantissa = self.nanos;
        let mut exponent = -9;
        while mantissa % 10 == 0 && exponent < 18 {
            mantissa /= 10;
            exponent += 1;
        }
        // Exponents are multiples of three.
        while exponent % 3 != 0 {
            mantissa *= 10;
            exponent -= 1;
        }
        if format == Format::DecimalExponent {
            while mantissa % 1000 == 0 {
                mantissa /= 1000;
                exponent += 3;
            }
            return if exponent == 0 { mantissa.to_string() } else { format!("{mantissa}e{exponent}") };
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(exponent / 3 + 3) as usize];
        format!("{mantissa}{suffix}")
    }
}

fn binary_nanos(digits: &str, scale: i64, exponent: u32) -> i128 {
    // digits × 10^scale × 2^exponent × 10^9, rounded up.
    let Ok(value) = digits.parse::<i128>() else { return i128::MAX };
    let Some(product) = value.checked_mul(1i128 << exponent) else { return i128::MAX };
    let shift = scale + 9;
    if shift >= 0 {
        return product.saturating_mul(10i128.saturating_pow(shift as u32));
    }
    let divisor = 10i128.saturating_pow(shift.unsigned_abs() as u32);
    product / divisor + i128::from(product % divisor != 0)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySI && whole && !small {
            let mut mantissa = self.nanos / NANO;
            let mut power = 0;
            while mantissa % 1024 == 0 && power < 6 {
                mantissa /= 1024;
                power += 1;
            }
            return write!(f, "{mantissa}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let format = if self.format == Format::BinarySI { Format::DecimalSI } else { self.format };
        f.write_str(&self.decimal(format))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::str::FromStr for Quantity {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The quantity that a JSON value holds, if it is one.
pub fn of(value: &Value) -> Option<Quantity> {
    if value.is_null() { None } else { Quantity::from_json(value).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_canonical_as_upstream() {
        for (input, expected) in [
            ("0", "0"),
            ("0m", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1025Ki", "1025Ki"),
            ("1Gi", "1Gi"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.001Ki", "1024m"),
            ("512Ki", "512Ki"),
            ("1024Mi", "1Gi"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("100e1", "1e3"),
            ("1E", "1E"),
            ("1000000E", "1000000E"),
            ("-1", "-1"),
            ("+5", "+5"),
            ("1.500", "1.500"),
            ("0.500", "500m"),
            ("1.", "1."),
            (".5", "500m"),
            ("12300m", "12300m"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1.1n", "2n"),
            ("9Ei", "9223372036854775807"),
            ("0.00001", "10u"),
            ("m", "0"),
            ("100000000", "100M"),
            ("1234567890123456789", "1234567890123456789"),
        ] {
            assert_eq!(Quantity::parse(input).unwrap().to_string(), expected, "{input}");
        }
    }

    #[test]
    fn faults_are_told_apart_as_upstream() {
        for (input, expected) in [
            ("", ParseQuantityError::Format),
            ("abc", ParseQuantityError::Format),
            ("1.2.3", ParseQuantityError::Format),
            ("1 Gi", ParseQuantityError::Format),
            ("1Gib", ParseQuantityError::Format),
            ("1e", ParseQuantityError::Suffix),
            ("1K", ParseQuantityError::Suffix),
            ("1mm", ParseQuantityError::Suffix),
            ("1Mi1", ParseQuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(input).unwrap_err(), expected, "{input}");
        }
    }

    #[test]
    fn amounts_compare_add_and_round_away_from_zero() {
        let parse = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(parse("1"), parse("1000m"));
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!((parse("1.1").value(), parse("-1.1").value(), parse("0.1m").milli_value()), (2, -2, 1));
        let mut sum = Quantity::zero();
        sum.add(&parse("512Mi"));
        sum.add(&parse("512Mi"));
        assert_eq!(sum.to_string(), "1Gi");
        sum.sub(&parse("1Gi"));
        assert!(sum.is_zero());
        assert_eq!(Quantity::from_milli(1500, Format::DecimalSI).to_string(), "1500m");
        assert_eq!(Quantity::from_json(&serde_json::json!(0.5)).unwrap().to_string(), "500m");
        assert_eq!(Quantity::from_i64(1024, Format::BinarySI).to_string(), "1Ki");
    }
}
