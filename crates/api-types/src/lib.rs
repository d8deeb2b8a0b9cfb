//! What the REST API speaks, and the trait behind it.
