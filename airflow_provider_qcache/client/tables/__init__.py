"""Tables on their way to a node: from any form that they are given in to checked bytes."""
