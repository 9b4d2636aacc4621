//! Numbers of bytes as people write them.

use crate::error::{Error, Result};

/// A number of bytes in a form that [`parse_bytes`] reads back as the same number: `12GiB`, `8GB`, `1001B`.
pub(crate) fn exact_bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let exact = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    let decimal = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    let decimal = decimal.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    // The unit that leaves the smaller number is the one that was written.
    match (exact, decimal) {
        (Some((unit, shift)), None) => format!("{}{unit}", bytes >> shift),
        (Some((unit, shift)), Some((_, of))) if bytes >> shift <= bytes / of => {
            format!("{}{unit}", bytes >> shift)
        }
        (_, Some((unit, of))) => format!("{}{unit}", bytes / of),
        (None, None) => format!("{bytes}B"),
    }
}

/// Reads a number of bytes with its unit: `12GiB`, `1.5 GiB`, `12GB` (decimal), `12G` (as `GiB`) or
/// `1048576B`. A number alone is refused: `8` is more often meant as 8 GiB than as 8 bytes.
///
/// ```
/// use moe_offload::plan::parse_bytes;
/// assert_eq!(parse_bytes("12GiB")?, 12 << 30);
/// assert_eq!(parse_bytes("1.5 kB")?, 1500);
/// assert!(parse_bytes("12").unwrap_err().to_string().contains("12GiB"));
/// # Ok::<(), moe_offload::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidOption`] for anything else, or 2^63 bytes and more; [`Error::NoUnit`] for a number
/// without a unit.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let refused = |expected: &'static str| Error::InvalidOption {
        option: "a number of bytes",
        value: format!("`{text}`"),
        expected,
    };
    let bad = || {
        refused(if text.contains('%') {
            "a number with a unit, such as 12GiB, and no percentage"
        } else {
            "a number with a unit up to TiB, such as 12GiB, 500MB or 1048576B"
        })
    };
    let too_many = || refused("less than 8388608TiB");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" if is_number(number) => return Err(Error::NoUnit { text: text.to_owned() }),
        "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).filter(|&bytes| bytes < 1 << 63).ok_or_else(too_many);
    }
    let value: f64 = number.parse().map_err(|_| bad())?;
    #[allow(clippy::cast_precision_loss)] // the factors are exact
    let bytes = value * factor as f64;
    #[allow(clippy::cast_precision_loss)] // a power of 2
    if !(0.0..(1_u64 << 63) as f64).contains(&bytes) {
        return Err(too_many());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked above
    Ok(bytes.round() as u64)
}

fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in [
            ("0B", 0),
            ("1024 b", 1024),
            ("12GiB", 12 << 30),
            ("12 gib", 12 << 30),
            ("12G", 12 << 30),
            ("12GB", 12_000_000_000),
            ("0.5MiB", 512 << 10),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "GiB", "-1", "1e3", "12XB", "1.2.3G", "99999999999TiB", "٣", "NaN", "inf"]
        {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for text in ["8388608TiB", "18446744073709551616B", "8388608.5TiB"] {
            let error = parse_bytes(text).unwrap_err().to_string();
            assert!(error.contains("less than 8388608TiB"), "{error}");
        }
    }

    #[test]
    fn a_number_alone_is_asked_for_its_unit() {
        for text in ["8", "0", "1.5", " 1048576 "] {
            let error = parse_bytes(text).unwrap_err();
            let asked = format!("{}GiB", text.trim());
            assert!(matches!(error, Error::NoUnit { .. }), "{text}: {error}");
            assert!(error.to_string().contains(&asked), "{error}");
        }
    }

    #[test]
    fn sizes_are_written_as_they_were_given() {
        for text in ["8GB", "500MB", "12GiB", "512MiB", "1000GiB", "1500MB", "7kB", "1001B", "0B"] {
            assert_eq!(exact_bytes(parse_bytes(text).unwrap()), text);
        }
    }

    #[test]
    fn what_is_written_exactly_is_read_back() {
        for bytes in [0, 1, 1023, 1024, 1 << 30, (1 << 30) + 1, 3 << 20, (1 << 63) - 1] {
            assert_eq!(parse_bytes(&exact_bytes(bytes)).unwrap(), bytes);
        }
    }
}
