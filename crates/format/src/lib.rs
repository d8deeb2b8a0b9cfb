//! Every on-disk byte: encoders and decoders, no I/O.
