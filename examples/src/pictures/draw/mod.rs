//! Drawing: a canvas, colors, plots, matrices, image tiles and animations, and the two pictures that every run draws.

pub(crate) mod animation;
pub(crate) mod canvas;
pub(crate) mod color;
pub(crate) mod curves;
pub(crate) mod matrix;
pub(crate) mod mix;
pub(crate) mod plot;
pub(crate) mod tiles;

/// A number with at most `places` decimals and no trailing zeros: `0.5`, `0.25`, `0.06`, `1`.
fn decimals(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_zeros_are_dropped() {
        let texts: Vec<String> = [0.0, 0.0625, 0.125, 0.25, 0.5, 1.0].map(|value| decimals(value, 2)).to_vec();
        assert_eq!(texts, ["0", "0.06", "0.12", "0.25", "0.5", "1"]);
        assert_eq!(decimals(0.125, 3), "0.125");
    }
}
