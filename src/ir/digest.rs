//! Names rules by their content.
