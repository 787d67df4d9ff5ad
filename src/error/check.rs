//! Checks of arguments. The text of an error is built only on failure.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

use tch::{Device, Kind, Tensor};

use super::{Error, Result};

/// An error if `tensor` is undefined. tch panics when asked for the shape or the device of an undefined tensor.
pub(crate) fn check_defined(name: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.defined() { Ok(()) } else { Err(Error::Undefined { name }) }
}

/// An error if the CUDA index is out of range. tch truncates it to libtorch's 8 bits, which can select another GPU or
/// the CPU.
pub(crate) fn check_index(device: Device) -> Result<()> {
    match device {
        Device::Cuda(index) => check_value("device", index as f64, "a CUDA index from 0 to 127", index <= 127),
        _ => Ok(()),
    }
}

/// A number that an error can report.
pub(crate) trait Number: Copy + PartialOrd + Display {
    fn to_f64(self) -> f64;
}

impl Number for i64 {
    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl Number for usize {
    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl Number for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

/// An error unless `actual` is in `range`. NaN is in no range.
pub(crate) fn check_in<N: Number>(name: &'static str, actual: N, range: impl RangeBounds<N>) -> Result<()> {
    if range.contains(&actual) {
        return Ok(());
    }
    Err(Error::Value { name, expected: describe(range.start_bound(), range.end_bound()), actual: actual.to_f64() })
}

/// A range in words, such as "between 0 and 1" or "at least 1".
fn describe<N: Number>(start: Bound<&N>, end: Bound<&N>) -> String {
    match (start, end) {
        (Bound::Included(first), Bound::Included(last)) if first == last => format!("{first}"),
        (Bound::Included(first), Bound::Included(last)) => format!("between {first} and {last}"),
        (start, end) => {
            let start = match start {
                Bound::Included(first) => Some(format!("at least {first}")),
                Bound::Excluded(limit) => Some(format!("above {limit}")),
                Bound::Unbounded => None,
            };
            let end = match end {
                Bound::Included(last) => Some(format!("at most {last}")),
                Bound::Excluded(limit) => Some(format!("below {limit}")),
                Bound::Unbounded => None,
            };
            start.into_iter().chain(end).collect::<Vec<_>>().join(" and ")
        }
    }
}

/// An error unless `actual` is positive and finite.
pub(crate) fn check_positive(name: &'static str, actual: f64) -> Result<()> {
    check_value(name, actual, "positive and finite", actual > 0.0 && actual.is_finite())
}

/// An error that reports `actual`, unless `fits`. For conditions that are not a range; see [`check_in`].
pub(crate) fn check_value(name: &'static str, actual: f64, expected: &str, fits: bool) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::Value { name, expected: expected.to_owned(), actual }) }
}

/// An error unless `tensor` is defined and has the dimensions of `expected`, with the sizes given there.
///
/// `expected` reads like the documentation: `[("B", None), ("T", Some(16))]` is `[B, 16]`.
pub(crate) fn check_shape(name: &'static str, tensor: &Tensor, expected: &[(&str, Option<i64>)]) -> Result<()> {
    check_defined(name, tensor)?;
    let actual = tensor.size();
    let fits = actual.len() == expected.len()
        && actual.iter().zip(expected).all(|(size, (_, wanted))| wanted.is_none_or(|wanted| wanted == *size));
    if fits {
        return Ok(());
    }
    let words: Vec<String> =
        expected.iter().map(|(word, size)| size.map_or_else(|| (*word).to_owned(), |size| size.to_string())).collect();
    Err(Error::Shape { name, expected: format!("[{}]", words.join(", ")), actual })
}

/// An error unless `tensor` has a floating-point kind.
pub(crate) fn check_float(name: &'static str, tensor: &Tensor) -> Result<()> {
    check_float_kind(name, tensor.f_kind()?)
}

/// An error unless `actual` is a floating-point kind.
pub(crate) fn check_float_kind(name: &'static str, actual: Kind) -> Result<()> {
    if is_float(actual) { Ok(()) } else { Err(Error::Kind { name, expected: "of a floating-point kind", actual }) }
}

/// Whether `kind` is a real floating-point kind.
pub(crate) fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}

/// An error unless `tensor` is on `expected`.
pub(crate) fn check_device(name: &'static str, tensor: &Tensor, expected: Device) -> Result<()> {
    let actual = tensor.device();
    if actual == expected { Ok(()) } else { Err(Error::Device { name, expected, actual }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected<N: Number>(actual: N, range: impl RangeBounds<N>) -> String {
        match check_in("value", actual, range) {
            Err(Error::Value { name: "value", expected, .. }) => expected,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_range_reads_as_it_is_meant() {
        assert_eq!(expected(-1, 0..=7_i64), "between 0 and 7");
        assert_eq!(expected(1, 0..=0_i64), "0");
        assert_eq!(expected(0, 1_usize..), "at least 1");
        assert_eq!(expected(9, ..=8_i64), "at most 8");
        assert_eq!(expected(4, 0..4_i64), "at least 0 and below 4");
        assert_eq!(expected(0.0, (Bound::Excluded(0.0), Bound::Included(0.5))), "above 0 and at most 0.5");
        assert_eq!(expected(f64::NAN, 0.0..=1.0), "between 0 and 1");
    }

    #[test]
    fn both_ends_of_a_range_are_in_it() {
        for value in [0.0, 0.5, 1.0] {
            check_in("value", value, 0.0..=1.0).unwrap();
        }
        check_in("value", i64::MAX, 1..).unwrap();
        check_in("value", 3, 0..4_i64).unwrap();
    }
}
