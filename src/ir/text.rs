//! Prints rule sets as nft text.
