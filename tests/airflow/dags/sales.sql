SELECT * FROM sales WHERE day <= '{{ params.last }}'
