//! Resource quantities as numbers. Rounds up, as the API's `Value` and `MilliValue` do.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// A list of resources as objects carry it.
pub type ResourceList = BTreeMap<String, Quantity>;

/// The quantity in whole units, rounded up; 0 if it cannot be read.
pub fn value(quantity: &Quantity) -> i64 {
    parse(&quantity.0, 1).unwrap_or(0)
}

/// The quantity in thousandths, rounded up; 0 if it cannot be read.
pub fn milli(quantity: &Quantity) -> i64 {
    parse(&quantity.0, 1000).unwrap_or(0)
}

/// Whole units of one resource of a list.
pub fn value_of(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?.get(name).map(value)
}

/// Thousandths of one resource of a list.
pub fn milli_of(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?.get(name).map(milli)
}

fn parse(text: &str, times: i128) -> Option<i64> {
    let text = text.trim();
    let end = text
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '-' || *c == '+'))))
        .map_or(text.len(), |(i, _)| i);
    let (number, suffix) = text.split_at(end);
    let negative = number.starts_with('-');
    let number = number.trim_start_matches(['-', '+']);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(18)];
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() {
        return None;
    }
    let mantissa: i128 = digits.parse().ok()?;
    let mut divisor: i128 = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let multiplier: i128 = match suffix {
        "" => 1,
        "n" | "u" | "m" => {
            divisor = divisor.checked_mul(match suffix {
                "n" => 1_000_000_000,
                "u" => 1_000_000,
                _ => 1000,
            })?;
            1
        }
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        exponent if exponent.starts_with(['e', 'E']) => {
            let power: i32 = exponent[1..].parse().ok()?;
            if power < 0 {
                divisor = divisor.checked_mul(10i128.checked_pow(power.unsigned_abs())?)?;
                1
            } else {
                10i128.checked_pow(power.unsigned_abs())?
            }
        }
        _ => return None,
    };
    let product = mantissa.checked_mul(multiplier)?.checked_mul(times)?;
    let magnitude = if negative { product / divisor } else { (product + divisor - 1) / divisor };
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_reads_them() {
        for (text, whole, thousandths) in [
            ("100m", 1, 100),
            ("1", 1, 1000),
            ("1.5", 2, 1500),
            ("128Mi", 128 << 20, (128 << 20) * 1000),
            ("1e3", 1000, 1_000_000),
            ("1k", 1000, 1_000_000),
            ("0", 0, 0),
            ("2500u", 1, 3),
            ("-1", -1, -1000),
            ("nonsense", 0, 0),
        ] {
            let quantity = Quantity(text.into());
            assert_eq!((value(&quantity), milli(&quantity)), (whole, thousandths), "{text}");
        }
    }
}
