//! What the benches share: medians and rows.

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a ratio beside the one asked for.
pub fn row(what: &str, against: &str, reached: f64, wanted: f64, at_least: bool) {
    let met = if at_least { reached >= wanted } else { reached <= wanted };
    let sign = if at_least { "at least" } else { "at most" };
    println!(
        "{what:34} against {against:24} {reached:7.2}   {sign} {wanted:<5} {}",
        if met { "met" } else { "MISSED" }
    );
}
