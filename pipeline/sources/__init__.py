"""Where records come from: one file per kind of source, each a generator of records and rejections in a fixed order."""
