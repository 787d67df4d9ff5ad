//! Parsers for options that take one number.

/// A finite number for which `fits` holds; the error says that it must be `expected`.
pub(crate) fn number(
    expected: &'static str,
    fits: fn(f64) -> bool,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number: &f64| number.is_finite() && fits(*number));
        number.ok_or_else(|| format!("must be {expected}"))
    }
}

/// A number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    number("above 0", |number| number > 0.0)(text)
}

/// A number of at least 0.
pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    number("at least 0", |number| number >= 0.0)(text)
}

/// A number between 0 and 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    number("between 0 and 1", |share| (0.0..=1.0).contains(&share))(text)
}

/// A number above 0 and at most 1.
pub(crate) fn positive_share(text: &str) -> Result<f64, String> {
    number("above 0 and at most 1", |share| share > 0.0 && share <= 1.0)(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_within_the_bounds_are_taken() {
        let rate = number("above 0", |rate| rate > 0.0);
        assert_eq!(rate("1e300"), Ok(1e300));
        for text in ["0", "-1", "nan", "inf", "fast", ""] {
            assert_eq!(rate(text), Err("must be above 0".to_owned()), "{text}");
        }
        assert_eq!((share("0"), share("1")), (Ok(0.0), Ok(1.0)));
        assert!(share("-0.1").is_err() && share("1.1").is_err());
    }
}
