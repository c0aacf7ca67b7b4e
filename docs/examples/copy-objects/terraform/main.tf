# Both accounts in one configuration: template.yaml is function-account.tf, target-account.yaml is target-account.tf.

terraform {
  required_version = ">= 1.5"
  required_providers {
    archive = {
      source  = "hashicorp/archive"
      version = "~> 2.4"
    }
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.60"
    }
  }
}

variable "region" {
  type        = string
  description = "Region of both accounts."
}

variable "function_account" {
  type        = string
  description = "Account of the function."
}

variable "function_profile" {
  type        = string
  description = "Profile with which that account is worked on."
}

variable "source_account" {
  type        = string
  description = "Account that the source bucket belongs to."
}

variable "source_profile" {
  type        = string
  description = "Profile with which that account is worked on."
}

variable "source_bucket_name" {
  type        = string
  description = "Name of the source bucket."
}

# A profile of the wrong account is refused, and not filled with the other's resources.
provider "aws" {
  alias               = "function_account"
  region              = var.region
  profile             = var.function_profile
  allowed_account_ids = [var.function_account]
}

provider "aws" {
  alias               = "source_account"
  region              = var.region
  profile             = var.source_profile
  allowed_account_ids = [var.source_account]
}

data "aws_partition" "current" {
  provider = aws.function_account
}

output "destination_bucket" {
  value = aws_s3_bucket.destination.bucket
}

output "failed_events" {
  value = aws_sqs_queue.failed_events.url
}

output "undelivered_events" {
  value = aws_sqs_queue.undelivered_events.url
}
