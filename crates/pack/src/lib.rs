//! Packs: building, reading, caching, deduplication index.
