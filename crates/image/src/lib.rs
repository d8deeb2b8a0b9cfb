//! Import and export of disk images.
