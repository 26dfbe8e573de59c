"""One experiment a module: a model, pools and a store in, frames out. Nothing here draws."""
