//! Views of a whole batch as tensor operations.
