//! Bytes as people read them, the element types of tensors with the bytes that they take, and tokens.

mod ggml_type;
mod token;

pub use self::ggml_type::GgmlType;
pub use self::token::Token;

/// Bytes as people read them, and as all tables and messages of this crate have them.
///
/// ```
/// use moe_offload::plan::human_bytes;
/// assert_eq!((human_bytes(5), human_bytes(3 << 29)), ("5 B".to_owned(), "1.50 GiB".to_owned()));
/// ```
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}
