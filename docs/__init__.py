"""The manual: pages for people, and `references` made of the code itself."""
