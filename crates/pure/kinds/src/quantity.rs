//! Resource quantities: `500m`, `1.5Gi`, `2e3` (Kubernetes API, `Quantity`).

use std::fmt;

/// A quantity, in units of 10^-9 so that every suffix is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct QuantityError;

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Reads a quantity as Kubernetes writes it.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let digits_end = text
            .char_indices()
            .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && "+-".contains(*c))))
            .map_or(text.len(), |(at, _)| at);
        let (number, suffix) = text.split_at(digits_end);
        let (multiplier, divisor) = scale(suffix).ok_or(QuantityError)?;
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(QuantityError);
        }
        let all = format!("{whole}{fraction}");
        let mantissa: i128 = all.parse().map_err(|_| QuantityError)?;
        let places = u32::try_from(fraction.len()).map_err(|_| QuantityError)?;
        let decimals = 10i128.checked_pow(places).ok_or(QuantityError)?;
        let scaled = mantissa
            .checked_mul(NANO)
            .and_then(|value| value.checked_mul(multiplier))
            .ok_or(QuantityError)?;
        let below = decimals.checked_mul(divisor).ok_or(QuantityError)?;
        // What is finer than 10^-9 rounds up, as apimachinery does.
        let nanos = (scaled + below - 1) / below;
        Ok(Self(if negative { -nanos } else { nanos }))
    }

    /// In whole units, rounded up: bytes, pods.
    pub fn units(self) -> i64 {
        clamp(div_up(self.0, NANO))
    }

    /// In thousandths, rounded up: CPU.
    pub fn millis(self) -> i64 {
        clamp(div_up(self.0, NANO / 1000))
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// A quantity in the form in which Kubernetes writes it: with the largest suffix of its family
/// that leaves a whole number. `None` for what is none, or too large to tell.
pub(crate) fn canonical(text: &str) -> Option<String> {
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let Quantity(nanos) = Quantity::parse(text).ok()?;
    if nanos == 0 {
        return Some("0".to_owned());
    }
    // Below 1024, or between whole units, a binary suffix would say less.
    let whole = nanos % NANO == 0 && nanos.abs() >= 1024 * NANO;
    if text.ends_with('i') && whole {
        let (number, power) = without_factor(nanos / NANO, 1024, BINARY.len() - 1);
        return Some(format!("{number}{}", BINARY.get(power)?));
    }
    let (number, power) = without_factor(nanos, 1000, DECIMAL.len() - 1);
    let exponent = text.contains(['e', 'E']) && text.ends_with(|end: char| end.is_ascii_digit());
    match power {
        // The suffix of units.
        3 => Some(number.to_string()),
        _ if exponent => {
            let power = i64::try_from(power).ok()?;
            Some(format!("{number}e{}", 3 * power - 9))
        }
        _ => Some(format!("{number}{}", DECIMAL.get(power)?)),
    }
}

/// What is left of `number` without the factor, and how often it had that; `most` times at most.
fn without_factor(mut number: i128, factor: i128, most: usize) -> (i128, usize) {
    let mut times = 0;
    while times < most && number % factor == 0 {
        number /= factor;
        times += 1;
    }
    (number, times)
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1i128 << (10 * power), 1));
    let decimal = |power: u32| Some((10i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs().min(30))?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % NANO == 0 {
            write!(f, "{}", self.0 / NANO)
        } else if self.0 % (NANO / 1000) == 0 {
            write!(f, "{}m", self.0 / (NANO / 1000))
        } else {
            write!(f, "{}n", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let millis = |text: &str| Quantity::parse(text).unwrap().millis();
        assert_eq!(millis("500m"), 500);
        assert_eq!(millis("1.5"), 1500);
        assert_eq!(millis("0.0001"), 1);
        let units = |text: &str| Quantity::parse(text).unwrap().units();
        assert_eq!(units("1.5Gi"), 1536 << 20);
        assert_eq!(units("2e3"), 2000);
        assert_eq!(units("100k"), 100_000);
        assert_eq!(units("-3"), -3);
        for bad in ["", "x", "1.2.3", "1 Gi", "1gb", ".", "--1"] {
            assert_eq!(Quantity::parse(bad), Err(QuantityError), "{bad}");
        }
    }

    /// From apimachinery's description of the type, and its tests.
    #[test]
    fn has_one_form() {
        for (text, wanted) in [
            ("1024Ki", "1Mi"),
            ("1500Mi", "1500Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1.5Ki", "1536"),
            ("2Ki", "2Ki"),
            ("0.1Mi", "104857600m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.0", "1"),
            ("1000", "1k"),
            ("12345", "12345"),
            ("1e3", "1e3"),
            ("100e3", "100e3"),
            ("1000e3", "1e6"),
            ("1E", "1E"),
            ("0.1n", "1n"),
            ("-1000", "-1k"),
            ("+2", "2"),
            ("0Gi", "0"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(canonical("x"), None);
    }

    #[test]
    fn prints_canonically() {
        assert_eq!(Quantity::parse("0.5").unwrap().to_string(), "500m");
        assert_eq!(Quantity::parse("2000m").unwrap().to_string(), "2");
    }
}
