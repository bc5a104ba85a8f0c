//! Holds the reference file to the code.
