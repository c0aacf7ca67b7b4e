resource "aws_s3_bucket" "source" {
  provider = aws.source_account
  bucket   = var.source_bucket_name
}

resource "aws_s3_bucket_public_access_block" "source" {
  provider                = aws.source_account
  bucket                  = aws_s3_bucket.source.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_notification" "source" {
  provider    = aws.source_account
  bucket      = aws_s3_bucket.source.id
  eventbridge = true
}

# What the function assumes.
resource "aws_iam_role" "reader" {
  provider           = aws.source_account
  name               = "copy-objects-reader"
  description        = "Lets copy-objects in account ${var.function_account} read ${var.source_bucket_name}."
  assume_role_policy = data.aws_iam_policy_document.reader_trust.json
}

data "aws_iam_policy_document" "reader_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.execution.arn]
    }
  }
}

resource "aws_iam_role_policy" "reader" {
  provider = aws.source_account
  name     = "read-source"
  role     = aws_iam_role.reader.name
  policy   = data.aws_iam_policy_document.reader.json
}

data "aws_iam_policy_document" "reader" {
  statement {
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.source.arn}/*"]
  }
  # Without it S3 answers 403 for an object that is gone, and not 404.
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.source.arn]
  }
}

resource "aws_cloudwatch_event_rule" "forward_new_objects" {
  provider    = aws.source_account
  name        = "copy-objects"
  description = "Sends the events of new objects to account ${var.function_account}."
  event_pattern = jsonencode({
    "source"      = ["aws.s3"]
    "detail-type" = ["Object Created"]
    "detail"      = { "bucket" = { "name" = [aws_s3_bucket.source.bucket] } }
  })
}

resource "aws_cloudwatch_event_target" "function_account" {
  provider  = aws.source_account
  rule      = aws_cloudwatch_event_rule.forward_new_objects.name
  target_id = "function-account"
  arn       = aws_cloudwatch_event_bus.copy_objects.arn
  role_arn  = aws_iam_role.forwarder.arn

  dead_letter_config {
    arn = aws_sqs_queue.undelivered_events.arn
  }
}

# What EventBridge assumes to send to a bus of another account. The bus's policy names it.
resource "aws_iam_role" "forwarder" {
  provider           = aws.source_account
  name               = "copy-objects-forwarder"
  assume_role_policy = data.aws_iam_policy_document.forwarder_trust.json
}

data "aws_iam_policy_document" "forwarder_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [var.source_account]
    }
  }
}

resource "aws_iam_role_policy" "forwarder" {
  provider = aws.source_account
  name     = "forward-events"
  role     = aws_iam_role.forwarder.name
  policy   = data.aws_iam_policy_document.forwarder.json
}

data "aws_iam_policy_document" "forwarder" {
  statement {
    actions   = ["events:PutEvents"]
    resources = [aws_cloudwatch_event_bus.copy_objects.arn]
  }
}

# Where the other account's bus refuses events, they would be lost without a trace.
resource "aws_sqs_queue" "undelivered_events" {
  provider                  = aws.source_account
  name_prefix               = "copy-objects-undelivered-"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "undelivered_events" {
  provider  = aws.source_account
  queue_url = aws_sqs_queue.undelivered_events.url
  policy    = data.aws_iam_policy_document.undelivered_events.json
}

data "aws_iam_policy_document" "undelivered_events" {
  statement {
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.undelivered_events.arn]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudwatch_event_rule.forward_new_objects.arn]
    }
  }
}
