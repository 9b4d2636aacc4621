//! Regular expressions for sets of numbers, short and plain enough for every engine.

/// A pattern that matches exactly the decimal numbers in `ranges` (inclusive), without a group
/// around it: `[0-9]|1[0-1]` for 0 to 11.
pub(crate) fn alternatives(ranges: impl IntoIterator<Item = (u32, u32)>) -> String {
    let mut parts = Vec::new();
    for (first, last) in ranges {
        cover(u64::from(first), u64::from(last), &mut parts);
    }
    parts.join("|")
}

/// Cuts a range where the number of digits or the freely varying digits change.
fn cover(mut first: u64, last: u64, parts: &mut Vec<String>) {
    while first <= last {
        let digits = first.max(1).ilog10() + 1;
        // The largest block 10^k that starts here, stays inside and keeps the number of digits.
        let mut block = 1_u64;
        while first > 0
            && first.is_multiple_of(block * 10)
            && first + block * 10 - 1 <= last
            && first.ilog10() == (first + block * 10 - 1).ilog10()
        {
            block *= 10;
        }
        // Several such blocks in a row differ in one digit.
        let digit = first / block % 10;
        let room = 9 - digit;
        let count = room.min((last - first + 1) / block - 1);
        parts.push(part(first / block / 10, digit, digit + count, block, digits));
        first += (count + 1) * block;
    }
}

fn part(prefix: u64, from: u64, to: u64, block: u64, digits: u32) -> String {
    let free = block.ilog10();
    let head = if digits > free + 1 { prefix.to_string() } else { String::new() };
    let middle = if from == to { from.to_string() } else { format!("[{from}-{to}]") };
    head + &middle + &"[0-9]".repeat(free as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn matched(pattern: &str, up_to: u32) -> Vec<u32> {
        let regex = Regex::new(&format!("^({pattern})$")).unwrap();
        (0..=up_to).filter(|n| regex.is_match(&n.to_string())).collect()
    }

    #[test]
    fn patterns_are_short() {
        assert_eq!(alternatives([(0, 11)]), "[0-9]|1[0-1]");
        assert_eq!(alternatives([(3, 3), (7, 9)]), "3|[7-9]");
        assert_eq!(alternatives([(0, 999)]), "[0-9]|[1-9][0-9]|[1-9][0-9][0-9]");
    }

    proptest! {
        #[test]
        fn a_range_matches_exactly_itself(
            first in prop_oneof![0_u32..12, 0_u32..1200],
            length in prop_oneof![0_u32..12, 0_u32..1200],
        ) {
            let last = first + length;
            let found = matched(&alternatives([(first, last)]), 2500);
            prop_assert_eq!(found, (first..=last).collect::<Vec<_>>());
        }
    }
}
