//! Which images have to become queries and keys, given the weights of the terms.

use super::config::LossConfig;
use crate::error::{Error, Result};

/// The error for weights that leave no term.
pub(super) fn no_term() -> Error {
    Error::Value { name: "weights", expected: "above 0 for a term of these views".to_owned(), actual: 0.0 }
}

/// The images of a global view, plain or mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Side {
    /// 0 or 1.
    pub(super) view: usize,
    pub(super) mixed: bool,
}

impl Side {
    /// All of them, in the order in which they pass through the networks.
    pub(super) const ALL: [Side; 4] = [plain(0), plain(1), mixed(0), mixed(1)];
    pub(super) const PLAIN: [Side; 2] = [plain(0), plain(1)];

    /// The place in [`Side::ALL`].
    pub(super) fn index(self) -> usize {
        self.view + if self.mixed { 2 } else { 0 }
    }

    fn of_other_view(self) -> Side {
        Side { view: 1 - self.view, ..self }
    }
}

const fn plain(view: usize) -> Side {
    Side { view, mixed: false }
}

const fn mixed(view: usize) -> Side {
    Side { view, mixed: true }
}

/// Query and key of the terms of global views, in the order of [`Losses::TERMS`](super::Losses::TERMS), as published.
/// The symmetric form adds the same pair with the views exchanged.
const PAIRS: [(Side, Side); 3] = [(plain(0), plain(1)), (mixed(1), plain(0)), (mixed(1), mixed(0))];

/// The places of the terms of global views in [`Losses::TERMS`](super::Losses::TERMS).
pub(super) const GLOBAL: [usize; 3] = [0, 1, 2];

/// The places of the terms of local views in [`Losses::TERMS`](super::Losses::TERMS): plain queries, and mixed ones.
pub(super) const LOCAL: [usize; 2] = [3, 4];

/// The keys that a query should match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// That of its own image.
    Itself,
    /// Those of the plain images that it is mixed from.
    Sources,
    /// Those of the mixed images that it has sources in common with.
    Mixed,
}

/// What a term of [`Losses::TERMS`](super::Losses::TERMS) has for a target.
pub(super) fn target(term: usize) -> Target {
    [Target::Itself, Target::Sources, Target::Mixed, Target::Itself, Target::Sources][term]
}

/// What the terms with a weight need.
#[derive(Debug)]
pub(super) struct Needs {
    /// Whether each term is computed.
    terms: [bool; 5],
    symmetric: bool,
}

impl Needs {
    /// # Errors
    ///
    /// [`Error::Value`] for a weight that is negative or not finite, and if no term is left.
    pub(super) fn new(config: &LossConfig, has_local_views: bool) -> Result<Needs> {
        config.weights.check()?;
        let [global_1, global_2, global_3, local_1, local_2] = config.weights.to_array().map(|weight| weight > 0.0);
        let terms = [global_1, global_2, global_3, local_1 && has_local_views, local_2 && has_local_views];
        if !terms.contains(&true) {
            return Err(no_term());
        }
        Ok(Needs { terms, symmetric: config.symmetric })
    }

    pub(super) fn has_term(&self, index: usize) -> bool {
        self.terms[index]
    }

    /// The queries and keys that a term of global views compares; none if it is not computed.
    pub(super) fn pairs(&self, term: usize) -> impl Iterator<Item = (Side, Side)> {
        let (query, key) = PAIRS[term];
        let exchanged = self.symmetric.then_some((query.of_other_view(), key.of_other_view()));
        std::iter::once((query, key)).chain(exchanged).filter(move |_| self.has_term(term))
    }

    pub(super) fn is_query(&self, side: Side) -> bool {
        self.all_pairs().any(|(query, _)| query == side)
    }

    pub(super) fn is_key(&self, side: Side) -> bool {
        let for_local_views = !side.mixed && LOCAL.iter().any(|term| self.has_term(*term));
        for_local_views || self.all_pairs().any(|(_, key)| key == side)
    }

    fn all_pairs(&self) -> impl Iterator<Item = (Side, Side)> {
        (0..PAIRS.len()).flat_map(|term| self.pairs(term))
    }
}
