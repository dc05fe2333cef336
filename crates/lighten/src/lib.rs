//! qing-lighten
