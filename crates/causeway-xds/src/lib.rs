//! The xds room.
