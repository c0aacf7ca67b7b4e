data "archive_file" "function" {
  type        = "zip"
  source_dir  = "${path.module}/../function"
  output_path = "${path.module}/.terraform/copy-objects.zip"
  excludes    = ["__pycache__"]
}

resource "aws_lambda_function" "copy_objects" {
  provider         = aws.function_account
  function_name    = "copy-objects" # the session name that account 222222222222 reads in its CloudTrail
  description      = "Copies new objects of ${var.source_bucket_name} into ${aws_s3_bucket.destination.bucket}."
  filename         = data.archive_file.function.output_path
  source_code_hash = data.archive_file.function.output_base64sha256
  handler          = "handler.lambda_handler"
  runtime          = "python3.13"
  architectures    = ["arm64"]
  layers           = [aws_lambda_layer_version.library.arn]
  role             = aws_iam_role.execution.arn
  memory_size      = 1024 # bandwidth grows with it
  timeout          = 900

  environment {
    variables = {
      READER_ROLE_ARN    = aws_iam_role.reader.arn
      SOURCE_BUCKET      = var.source_bucket_name
      DESTINATION_BUCKET = aws_s3_bucket.destination.bucket
    }
  }

  logging_config {
    log_format            = "JSON"
    application_log_level = "INFO"
    log_group             = aws_cloudwatch_log_group.copy_objects.name
  }

  dead_letter_config {
    target_arn = aws_sqs_queue.failed_events.arn
  }

  # Lambda refuses a dead-letter queue that the execution role may not send to.
  depends_on = [aws_iam_role_policy.execution]
}

resource "aws_lambda_layer_version" "library" {
  provider            = aws.function_account
  layer_name          = "xacct-lambda"
  filename            = "${path.module}/../xacct-lambda-layer.zip" # python -m xacct_lambda layer --output xacct-lambda-layer.zip
  source_code_hash    = filebase64sha256("${path.module}/../xacct-lambda-layer.zip")
  compatible_runtimes = ["python3.13"]
  license_info        = "Apache-2.0"
}

resource "aws_cloudwatch_event_rule" "object_created" {
  provider       = aws.function_account
  name           = "copy-objects"
  event_bus_name = aws_cloudwatch_event_bus.copy_objects.name
  event_pattern = jsonencode({
    "source"      = ["aws.s3"]
    "detail-type" = ["Object Created"]
    "account"     = [var.source_account]
    "detail"      = { "bucket" = { "name" = [var.source_bucket_name] } }
  })
}

resource "aws_cloudwatch_event_target" "function" {
  provider       = aws.function_account
  rule           = aws_cloudwatch_event_rule.object_created.name
  event_bus_name = aws_cloudwatch_event_bus.copy_objects.name
  arn            = aws_lambda_function.copy_objects.arn

  dead_letter_config {
    arn = aws_sqs_queue.failed_events.arn
  }
}

resource "aws_lambda_permission" "events" {
  provider      = aws.function_account
  function_name = aws_lambda_function.copy_objects.function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.object_created.arn
}

# The trust policy of the reader refers to it, so Terraform makes it first.
resource "aws_iam_role" "execution" {
  provider           = aws.function_account
  name               = "copy-objects-function"
  assume_role_policy = data.aws_iam_policy_document.execution_trust.json
}

data "aws_iam_policy_document" "execution_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "execution" {
  provider = aws.function_account
  name     = "copy-objects"
  role     = aws_iam_role.execution.name
  policy   = data.aws_iam_policy_document.execution.json
}

data "aws_iam_policy_document" "execution" {
  statement {
    actions   = ["sts:AssumeRole"]
    resources = [aws_iam_role.reader.arn]
  }
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.destination.arn}/*"]
  }
  # Without it S3 answers 403 where there is no copy yet, and not 404.
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.destination.arn]
  }
  statement {
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.failed_events.arn]
  }
  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.copy_objects.arn}:*"]
  }
}

resource "aws_s3_bucket" "destination" {
  provider      = aws.function_account
  bucket_prefix = "copy-objects-"
}

resource "aws_s3_bucket_public_access_block" "destination" {
  provider                = aws.function_account
  bucket                  = aws_s3_bucket.destination.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "destination" {
  provider = aws.function_account
  bucket   = aws_s3_bucket.destination.id

  rule {
    id     = "parts-of-copies-that-were-cut-off"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

resource "aws_cloudwatch_event_bus" "copy_objects" {
  provider = aws.function_account
  name     = "copy-objects"
}

resource "aws_cloudwatch_event_bus_policy" "copy_objects" {
  provider       = aws.function_account
  event_bus_name = aws_cloudwatch_event_bus.copy_objects.name
  policy         = data.aws_iam_policy_document.event_bus.json
}

data "aws_iam_policy_document" "event_bus" {
  statement {
    sid       = "events-of-the-source-bucket"
    actions   = ["events:PutEvents"]
    resources = [aws_cloudwatch_event_bus.copy_objects.arn]
    principals {
      type        = "AWS"
      identifiers = ["arn:${data.aws_partition.current.partition}:iam::${var.source_account}:root"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:PrincipalArn"
      values   = [aws_iam_role.forwarder.arn]
    }
  }
}

# Events that could not be delivered to the function, and events that it failed on three times.
resource "aws_sqs_queue" "failed_events" {
  provider                  = aws.function_account
  name_prefix               = "copy-objects-failed-"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "failed_events" {
  provider  = aws.function_account
  queue_url = aws_sqs_queue.failed_events.url
  policy    = data.aws_iam_policy_document.failed_events.json
}

data "aws_iam_policy_document" "failed_events" {
  statement {
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.failed_events.arn]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudwatch_event_rule.object_created.arn]
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "failed_events" {
  provider            = aws.function_account
  alarm_name          = "copy-objects-failed-events"
  alarm_description   = "Objects were not copied. The README of copy-objects says how to send their events again."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.failed_events.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
}

resource "aws_cloudwatch_log_group" "copy_objects" {
  provider          = aws.function_account
  name              = "/aws/lambda/copy-objects"
  retention_in_days = 30
}
