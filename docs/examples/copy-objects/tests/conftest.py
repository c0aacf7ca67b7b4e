import os

# What handler.py reads when it is imported; template.yaml sets the same three. The keys are made up: no test leaves
# the machine.
os.environ |= {
    "READER_ROLE_ARN": "arn:aws:iam::222222222222:role/copy-objects-reader",
    "SOURCE_BUCKET": "orders-source",
    "DESTINATION_BUCKET": "orders-copies",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
