#!/bin/sh
# The served models, asked from the shell: examples/01_curl.sh [HOST:PORT]
set -eu
server=http://${1:-localhost:8000}

echo "# Is it ready, and what does it serve?"
curl -s -o /dev/null -w '%{http_code}\n' "$server/v2/health/ready"
curl -s -X POST "$server/v2/repository/index"
echo

echo "# Add and subtract two rows of integers"
curl -s "$server/v2/models/addsub/infer" -d '{"inputs": [
  {"name": "INPUT0", "shape": [1, 16], "datatype": "INT32", "data": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]},
  {"name": "INPUT1", "shape": [1, 16], "datatype": "INT32", "data": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}]}'
echo

echo "# What kind of file is this very script?"
curl -s "$server/v2/models/file_type/infer" -H 'Inference-Header-Content-Length: 0' \
  --data-binary "@$0" -D - -o /tmp/despina_example_$$ | grep -i '^HTTP'
tr -c '[:print:]' '\n' < /tmp/despina_example_$$ | grep . ; rm -f /tmp/despina_example_$$

echo "# And this line of text?"
curl -s "$server/v2/models/file_type/infer" -d '{"inputs": [
  {"name": "CONTENT", "shape": [1, 1], "datatype": "BYTES", "data": ["SELECT name, count(*) FROM moons GROUP BY planet;"]}]}'
echo
