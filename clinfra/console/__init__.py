"""The console: one page for browsers, shown by the admin pages and by blob servers."""
