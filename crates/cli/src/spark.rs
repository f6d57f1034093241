//! Small pictures of numbers, for a terminal.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One bar for each number, the largest as tall as the line; nothing of nothing. Zero is a gap, so that it is told from few.
pub(crate) fn spark(values: &[u64]) -> String {
    let most = values.iter().copied().max().unwrap_or(0);
    let bar = |value: u64| match (value, most) {
        (0, _) => ' ',
        (_, most) => BARS[usize::try_from((value * 7).div_ceil(most)).unwrap_or(7).min(7)],
    };
    values.iter().map(|value| bar(*value)).collect()
}

/// So many numbers that they fit: neighbours are added.
pub(crate) fn fitted(values: &[u64], width: usize) -> Vec<u64> {
    let together = values.len().div_ceil(width.max(1)).max(1);
    values.chunks(together).map(|chunk| chunk.iter().sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_told_from_none_and_the_largest_is_full() {
        assert_eq!(spark(&[0, 1, 500, 1_000]), " ▂▅█");
        assert_eq!(spark(&[]), "");
        assert_eq!(spark(&[0, 0]), "  ");
        assert_eq!(spark(&[7]), "█");
    }

    #[test]
    fn what_does_not_fit_is_added_up() {
        assert_eq!(fitted(&[1, 2, 3, 4, 5], 2), [6, 9]);
        assert_eq!(fitted(&[1, 2], 10), [1, 2]);
    }
}
