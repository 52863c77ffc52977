//! Resource quantities as numbers of billionths, printed in the API's canonical form
//! (upstream: apimachinery/pkg/api/resource).

use std::fmt;

use serde::{Deserialize, Deserializer};

const NANO: i128 = 1_000_000_000;

/// Which suffixes a quantity prints with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// A resource amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantity {
    pub nanos: i128,
    pub format: Format,
}

impl Quantity {
    pub fn from_value(value: i64) -> Self {
        Self { nanos: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// `None` if the text is no quantity.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (scale_nano, format): (i128, Format) = match suffix {
            "n" => (1, Format::DecimalSi),
            "u" => (1_000, Format::DecimalSi),
            "m" => (1_000_000, Format::DecimalSi),
            "" => (NANO, Format::DecimalSi),
            "k" => (NANO * 1_000, Format::DecimalSi),
            "M" => (NANO * 1_000_000, Format::DecimalSi),
            "G" => (NANO * 1_000_000_000, Format::DecimalSi),
            "T" => (NANO * 1_000_000_000_000, Format::DecimalSi),
            "P" => (NANO * 1_000_000_000_000_000, Format::DecimalSi),
            "E" => (NANO * 1_000_000_000_000_000_000, Format::DecimalSi),
            "Ki" => (NANO << 10, Format::BinarySi),
            "Mi" => (NANO << 20, Format::BinarySi),
            "Gi" => (NANO << 30, Format::BinarySi),
            "Ti" => (NANO << 40, Format::BinarySi),
            "Pi" => (NANO << 50, Format::BinarySi),
            "Ei" => (NANO << 60, Format::BinarySi),
            _ => {
                let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
                let nano_exponent = u32::try_from(exponent.checked_add(9)?).ok()?;
                (10i128.checked_pow(nano_exponent)?, Format::DecimalExponent)
            }
        };
        let (negative, digits) = match number.as_bytes().first()? {
            b'-' => (true, &number[1..]),
            b'+' => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut nanos = whole.saturating_mul(scale_nano);
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let divisor = 10i128.pow(u32::try_from(fraction.len()).ok()?);
            let parts = fraction.parse::<i128>().ok()?.saturating_mul(scale_nano);
            nanos = nanos.saturating_add((parts + divisor - 1) / divisor);
        }
        Some(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Whole units, rounded up.
    pub fn value(self) -> i64 {
        clamp(self.nanos.div_euclid(NANO) + i128::from(self.nanos.rem_euclid(NANO) != 0))
    }
    /// Thousandths, rounded up.
    pub fn milli(self) -> i64 {
        let milli = NANO / 1000;
        clamp(self.nanos.div_euclid(milli) + i128::from(self.nanos.rem_euclid(milli) != 0))
    }
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nanos % NANO == 0 && self.nanos.abs() >= NANO * 1024 {
            let mut value = self.nanos / NANO;
            let mut step = 0;
            while value % 1024 == 0 && step < 6 {
                value /= 1024;
                step += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let mut value = self.nanos;
        let mut step = 0;
        while value % 1000 == 0 && step < 9 {
            value /= 1000;
            step += 1;
        }
        if self.format == Format::DecimalExponent && step != 3 {
            return write!(f, "{value}e{}", step as i32 * 3 - 9);
        }
        write!(f, "{value}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][step])
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl serde::de::Visitor<'_> for Visit {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity::parse(text).unwrap_or_default())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Quantity, E> {
                Ok(Quantity::from_value(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Quantity, E> {
                Ok(Quantity::from_value(i64::try_from(value).unwrap_or(i64::MAX)))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Quantity, E> {
                Ok(Quantity::parse(&value.to_string()).unwrap_or_default())
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl serde::Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn quantities_parse_round_up_and_print_canonically() {
        for (text, value, milli, canonical) in [
            ("100m", 1, 100, "100m"),
            ("1.5", 2, 1500, "1500m"),
            ("0.1", 1, 100, "100m"),
            ("1Gi", 1 << 30, (1 << 30) * 1000, "1Gi"),
            ("1.5Gi", 3 << 29, (3 << 29) * 1000, "1536Mi"),
            ("1000", 1000, 1_000_000, "1k"),
            ("2e3", 2000, 2_000_000, "2e3"),
            ("0", 0, 0, "0"),
            ("-5", -5, -5000, "-5"),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(
                (quantity.value(), quantity.milli(), quantity.to_string().as_str()),
                (value, milli, canonical),
                "{text}"
            );
        }
        for bad in ["", "x", "1x", "e3", "."] {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
    }
}
