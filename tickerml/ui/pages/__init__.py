"""What the console looks like: the site, its one page, and the elements drawn in the browser."""
