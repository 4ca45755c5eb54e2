//! Try It Now.
