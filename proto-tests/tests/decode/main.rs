//! The decoder against captures of real streams, against an independent decoder, and against streams made by chance.

mod captures;
mod oracle;
mod random;
mod tap;
