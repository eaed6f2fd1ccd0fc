//! Pages of catalogues: order, borders and what is left out.
