from xacct_lambda import assume_role

READER = "arn:aws:iam::222222222222:role/role-on-source-account"


@assume_role(READER, clients=["s3"], external_id="orders-7f3a", duration_seconds=3600)
def lambda_handler(event, context, *, s3):
    return [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
