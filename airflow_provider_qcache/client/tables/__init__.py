"""From a table in any form to the checked bytes that a node stores."""
