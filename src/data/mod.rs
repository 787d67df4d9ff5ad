//! Images to train on.
