//! Small pictures: what went through the door in the last minutes.

use std::fmt::Write as _;

/// One bar for each stretch of time: answers, and the errors among them in another colour. No styles: the page's policy
/// allows none.
pub(crate) fn bars(values: &[(u32, u32)]) -> String {
    const WIDTH: usize = 6;
    const HEIGHT: f64 = 48.0;
    let most = f64::from(values.iter().map(|(answers, _)| *answers).max().unwrap_or(0).max(1));
    let mut out = format!(
        "<svg class=\"spark\" viewBox=\"0 0 {} 50\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
        (values.len() * WIDTH).max(1),
        label(values)
    );
    for (at, (answers, errors)) in values.iter().enumerate() {
        let height = |count: u32| if count == 0 { 0.0 } else { (f64::from(count) / most * HEIGHT).max(1.5) };
        for (class, count) in [("ok", *answers), ("bad", (*errors).min(*answers))] {
            let tall = height(count);
            if tall > 0.0 {
                let (x, y) = (at * WIDTH, 50.0 - tall);
                let _ = write!(
                    out,
                    "<rect class=\"{class}\" x=\"{x}\" y=\"{y:.1}\" width=\"5\" height=\"{tall:.1}\"/>"
                );
            }
        }
    }
    out + "</svg>"
}

fn label(values: &[(u32, u32)]) -> String {
    let sum = |pick: fn(&(u32, u32)) -> u32| values.iter().map(|v| u64::from(pick(v))).sum::<u64>();
    let minutes = values.len().div_ceil(6);
    format!("{} answers and {} errors in the last {minutes} minutes", sum(|v| v.0), sum(|v| v.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_error_among_many_answers_can_be_seen_and_nothing_draws_nothing() {
        let picture = bars(&[(1_000, 1), (0, 0), (500, 0)]);
        assert_eq!(picture.matches("class=\"bad\"").count(), 1);
        assert!(picture.contains("height=\"1.5\""), "{picture}");
        assert_eq!(picture.matches("class=\"ok\"").count(), 2);
        assert!(picture.contains("1500 answers and 1 errors"), "{picture}");
        assert!(!bars(&[]).contains("<rect"));
    }
}
